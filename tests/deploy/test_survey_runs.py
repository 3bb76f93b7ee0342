"""Each paper's run of configs/survey, tiny: phantoms drawn, spread, trained on to the end.

In 2-D and 3-D, by the encoder that the run names; and every method in 3-D by its name. What comes
after is alike for all runs, and is tested with ``simulate``.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from tiny_runs import KNOBS

from confrere_client.data.images import open_images
from confrere_common.errors import RoundError
from confrere_common.loading import read_run
from confrere_common.method import METHODS
from confrere_common.model import must_build_whole
from confrere_deploy.engines.inline import inline
from confrere_deploy.families import ALL_FAMILIES
from confrere_deploy.simulate import settled
from confrere_deploy.split import spread
from confrere_deploy.study import arms
from confrere_deploy.study.holdout import holdout
from confrere_server.joining import must_join
from confrere_server.store import ServerState

SURVEY = sorted((Path(__file__).parents[2] / "configs" / "survey").glob("*.yaml"))
PARADIGMS = next(path for path in SURVEY if path.stem == "paradigms")
SMALL = (
    "data.source.images=16",
    "data.source.patients=16",
    "data.source.sites=2",
    "data.source.image_px=16",
    "data.image_px=16",
    "train.batch=4",
    "train.epochs_per_round=null",
    "train.steps_per_round=1",
    "train.device=cpu",
    "federation.rounds=2",
)
NARROW = {
    "resnet": ("encoder.width=8", "encoder.stem=large"),
    "swin": ("encoder.dim=6", "encoder.depths=[1,1,1]", "encoder.window=2"),
}
DIMS = {
    2: ("data.source.modality=radiograph", "data.source.dims=2", "augment.modality=cxr"),
    3: ("data.source.modality=ct", "data.source.dims=3", "augment.modality=ct"),
}


def tiny_of(path: Path, dims: int) -> Sequence[str]:
    """Return the changes that make a run tiny; what it is about stays as it is written."""
    run = read_run(path, families=ALL_FAMILIES)
    knobs = KNOBS.get(run.method.name, {}).items()
    widths = [f"method.{knob}={value}" for knob, value in knobs if knob != "classes"]
    return (*SMALL, *NARROW[run.encoder.name], *DIMS[dims], *widths)


def carried(path: Path, folder: Path, changes: Sequence[str]) -> ServerState:
    """Carry out a run's federation and return its end."""
    run = read_run(path, changes, ALL_FAMILIES)
    data = run.data
    images = open_images(
        data.source, folder=path.parent, image_px=data.image_px, cache_dir=folder / "cache"
    )
    run = settled(run, images)
    must_join(run)
    must_build_whole(run)
    held = holdout(images.catalog, data.test_share, data.val_share, data.seed)
    training = arms.Training(
        run=run,
        images=images,
        sites=spread(data, images.catalog, held.train),
        folder=folder,
        engine=inline,
        alone=inline,
        observer=lambda *_: (lambda _: None, lambda *_: None),
        resources={},
    )
    return arms.federated(training, seed=0)


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("path", SURVEY, ids=[path.stem for path in SURVEY])
def test_a_paper_s_run_trains_to_its_end(path: Path, dims: int, tmp_path: Path) -> None:
    state = carried(path, tmp_path, tiny_of(path, dims))

    assert [record.void for record in state.records] == ["", ""]
    sites = [site for record in state.records for site in record.sites]
    assert len(sites) == 4
    assert not any(site.refused for site in sites)
    assert all(bool(tensor.isfinite().all()) for tensor in state.weights.values())


ON_VOLUMES = {
    "resnet": "encoder={name: resnet, width: 8, groups: 4, stem: large}",
    "vit": "encoder={name: vit, dim: 24, depth: 1, heads: 2, patch: 8}",
}


@pytest.mark.parametrize("method", METHODS.names())
def test_a_method_trains_on_volumes_by_its_name(method: str, tmp_path: Path) -> None:
    kinds = METHODS.member(method).encoder_kinds or ("resnet",)
    named = {"name": method, **KNOBS.get(method, {})}
    if "label" in METHODS.member(method).wants:
        named["classes"] = ["normal", "cyst", "abscess", "tumour"]

    state = carried(
        PARADIGMS, tmp_path,
        [*SMALL, *DIMS[3], ON_VOLUMES[kinds[0]], f"method={yaml.safe_dump(named)}"],
    )  # fmt: skip

    assert [record.void for record in state.records] == ["", ""]
    assert not any(site.refused for record in state.records for site in record.sites)


@pytest.mark.parametrize("method", ["joint", "weak"])
def test_named_classes_may_be_more_than_a_site_has(method: str, tmp_path: Path) -> None:
    """Named in another order than by alphabet, and with one that no site has."""
    named = f"method={{name: {method}, classes: [scar, nodules, normal, fibrosis, consolidation]}}"
    changes = [one for one in tiny_of(PARADIGMS, 2) if not one.startswith("method.")]

    state = carried(PARADIGMS, tmp_path, [*changes, named])

    assert not any(site.refused for record in state.records for site in record.sites)
    assert state.weights["classifier.weight"].shape[0] == 5


def test_a_class_that_the_run_does_not_name_is_refused_at_its_sites(tmp_path: Path) -> None:
    changes = [one for one in tiny_of(PARADIGMS, 2) if not one.startswith("method.")]

    with pytest.raises(RoundError, match="What the sites said: UnnamedClasses"):
        carried(PARADIGMS, tmp_path, [*changes, "method={name: weak, classes: [a, b]}"])

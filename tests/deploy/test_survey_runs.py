"""Each paper's run of configs/survey, whole but tiny: images made, trained on, measured, reported."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from confrere_common.loading import read_run
from confrere_deploy.families import ALL_FAMILIES
from confrere_deploy.report.codec import from_json
from confrere_deploy.simulate import Options, carry_out

SURVEY = sorted((Path(__file__).parents[2] / "configs" / "survey").glob("*.yaml"))
SMALL = (
    "data.source.images=24",
    "data.source.patients=24",
    "data.source.sites=2",
    "data.source.image_px=16",
    "data.image_px=16",
    "train.batch=4",
    "train.epochs_per_round=null",
    "train.steps_per_round=1",
    "federation.rounds=2",
    "floors=none",
)
NARROW = {
    "resnet": ("encoder.width=8", "encoder.stem=large"),
    "swin": ("encoder.dim=6", "encoder.depths=[1,1,1]", "encoder.window=2"),
}
DIMS = {
    2: ("data.source.modality=radiograph", "data.source.dims=2", "augment.modality=cxr"),
    3: ("data.source.modality=ct", "data.source.dims=3", "augment.modality=ct"),
}


def carried(path: Path, out: Path, changes: Sequence[str]) -> str:
    """Carry out a run as ``confrere simulate`` does and return its report's text."""
    narrow = NARROW[read_run(path, families=ALL_FAMILIES).encoder.name]
    run = read_run(path, (*SMALL, *narrow, *changes), ALL_FAMILIES)
    options = Options(
        folder=path.parent, out=out, resume=False, engine="inline", resources={}, command=None
    )
    with Path(os.devnull).open("w") as nowhere:
        carry_out(run, options, Console(file=nowhere))
    return (out / "report.json").read_text()


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("path", SURVEY, ids=[path.stem for path in SURVEY])
def test_a_paper_s_run_goes_from_its_file_to_its_report(
    path: Path, dims: int, tmp_path: Path
) -> None:
    report = from_json(carried(path, tmp_path / "out", DIMS[dims]))

    rounds = [one for one in report.rounds if one.loss is not None]
    assert len(rounds) == 2
    assert all(len(one.sites) == 2 and not any(s.refused for s in one.sites) for one in rounds)
    assert report.arms["federated"].rankme.mean >= 1

"""Volumes, from a hospital's files to an encoder, in a federation of processes: whole or in crops.

Each of two sites prepares files of its own: brains (NIfTI, the MSD hippocampus set) and adrenal
glands (npz, AdrenalMNIST3D), those of ``../shared/data`` where they are there, else drawn ones.
``confrere simulate`` then trains on a set that the command ``prepare`` made of the same files.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml
from federation import Federation, federation, wait_until
from typer.testing import CliRunner

from confrere_client.hospital.registry import add
from confrere_client.ingest.prepare import Order, prepare
from confrere_client.ingest.preprocess_plan import Plan
from confrere_common.loading import parse_run
from confrere_common.release import load_release
from confrere_deploy.cli import app
from confrere_deploy.families import ALL_FAMILIES
from confrere_server.runs.queue import Folder, submit

pytestmark = pytest.mark.long

SHARED = Path(__file__).parents[4] / "shared/data"
BRAINS = SHARED / "mri_msd_hippocampus/images"
GLANDS = SHARED / "ct_adrenalmnist3d_64/adrenalmnist3d_64.npz"
SITES = ("alpha", "beta")
VOLUMES = 6
RUNS: Mapping[str, Mapping[str, Any]] = {
    "simmim-cnn": {
        "method": {"name": "simmim", "head": 8, "block": 4},
        "encoder": {"name": "resnet", "width": 8, "groups": 4},
    },
    "simmim-vit": {
        "method": {"name": "simmim", "head": 8},
        "encoder": {"name": "vit", "depth": 1, "dim": 24, "heads": 1, "patch": 8},
        "crop_px": [16, 24, 16],
    },
    "byol-cnn": {
        "method": {"name": "byol", "hidden": 16, "out": 8},
        "encoder": {"name": "resnet", "width": 8, "groups": 4},
    },
}


def brains(folder: Path, site: int) -> Path:
    """Put a site's own volumes into a folder, no two sites' the same."""
    folder.mkdir()
    found = sorted(BRAINS.glob("*.nii.gz"))[site * VOLUMES : (site + 1) * VOLUMES]
    for path in found:
        (folder / path.name).symlink_to(path)
    generator = np.random.default_rng(site)
    for number in range(0 if found else VOLUMES):
        voxels = generator.integers(0, 400, (30, 34, 28)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / f"{number}.nii.gz")
    return folder


def glands(folder: Path, site: int) -> Path:
    """Put one array of a site's own volumes into a folder."""
    folder.mkdir()
    part = slice(site * VOLUMES, (site + 1) * VOLUMES)
    if GLANDS.exists():
        voxels = np.load(GLANDS)["train_images"][part]
    else:
        drawn = np.random.default_rng(site).integers(0, 2, (VOLUMES, 24, 24, 24))
        voxels = (255 * drawn).astype(np.uint8)
    np.savez_compressed(folder / "glands.npz", train_images=voxels)
    return folder


SETS: Mapping[str, tuple[Callable[[Path, int], Path], str]] = {
    "brains": (brains, "mri"), "glands": (glands, "ct")
}  # fmt: skip
"""Name of a data set -> what puts a site's files into a folder, and the modality."""

EACH = pytest.mark.parametrize("data_set", SETS)
EVERY_RUN = pytest.mark.parametrize("name", RUNS)


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory, snapshot: Path) -> Iterator[Federation]:
    """Return a federation whose sites lend volumes that they prepared."""
    root = tmp_path_factory.mktemp("volumes")
    kinds = {"study": "chaos", "data_sets": [*SETS], "max_rounds": 10, "rosters": ["any"]}
    allowed = {**kinds, "methods": ["simmim", "byol"]}
    with federation(root, snapshot, names=SITES) as made:
        made.start_server()
        made.wait_for_server()
        for number, name in enumerate(SITES):
            made.join(name, min_images=2, preapproved_classes=[allowed])
            for data_set, (files, modality) in SETS.items():
                place = root / f"{name}-{data_set}"
                sources = (files(root / f"{name}-{data_set}-files", number),)
                prepare(Order(sources=sources, dataset=place, plan=Plan()))
                add(made.folder(name), data_set, place, source="prepared", modality=modality)
            made.start_site(name)
        yield made


def sent(made: Federation, name: str, data_set: str, demanded: Mapping[str, Any]) -> Folder:
    plain = {
        "name": f"{name}-{data_set}",
        "seeds": [0],
        "data": {
            "source": {"name": "site", "dataset": data_set}, "preparation": dict(demanded),
            "image_px": 16, "channels": 1, "dims": 3, "crop_px": RUNS[name].get("crop_px"),
        },
        "augment": {"modality": SETS[data_set][1]},
        "train": {"batch": 2, "steps_per_round": 1, "device": "cpu"},
        "federation": {"rounds": 2, "min_sites": 2, "quorum": 1.0},
        **{part: RUNS[name][part] for part in ("method", "encoder")},
    }  # fmt: skip
    return submit(made.workspace.runs, parse_run(plain, ALL_FAMILIES), roster={})


@EACH
@EVERY_RUN
def test_sites_pretrain_on_volumes_that_they_prepared(
    hospitals: Federation, name: str, data_set: str
) -> None:
    run = sent(hospitals, name, data_set, {"slices": "none"})
    hospitals.wait(run, 120)

    encoder, card = load_release(run.path / "encoder.safetensors")
    closed = hospitals.closed(run)
    assert [facts["sites"] for facts in closed] == ["alpha,beta"] * 2
    assert list(encoder.size) == RUNS[name].get("crop_px", [16] * 3)
    assert card.training["method"] == RUNS[name]["method"]["name"]
    assert card.preprocessing["prepared"]["slices"] == "none"


def test_sites_that_prepared_otherwise_take_no_part(hospitals: Federation) -> None:
    run = sent(hospitals, "byol-cnn", "brains", {"spacing_mm": [2, 2, 2]})

    def said() -> list[tuple[str, str]]:
        return [(site["standing"], site["code"]) for site in run.standing.sites.values()]

    wait_until(lambda: len(said()) == len(SITES), 120, "all answers")
    time.sleep(7)  # it is asked again and again, and the log says it once

    assert said() == [("refused", "other-preparation")] * 2
    assert run.standing.state == "gathering"
    assert not hospitals.closed(run)
    lines = hospitals.tail("alpha", 100).splitlines()
    assert len([line for line in lines if "were not prepared as the run demands" in line]) == 1


@EACH
@EVERY_RUN
def test_a_simulation_pretrains_on_volumes_that_the_command_prepared(
    tmp_path: Path, name: str, data_set: str
) -> None:
    files, modality = SETS[data_set]
    source, size = files(tmp_path / "files", 0), RUNS[name].get("crop_px", [16] * 3)
    text = {
        "name": name,
        "data": {
            "source": {"name": "prepared", "path": str(tmp_path / "set"), "dims": 3},
            "split": {"name": "iid", "sites": 2},
            "image_px": 16, "crop_px": RUNS[name].get("crop_px"),
        },
        "augment": {"modality": modality},
        "train": {"batch": 2, "steps_per_round": 1},
        "federation": {"rounds": 1},
        "floors": "none",
        **{part: RUNS[name][part] for part in ("method", "encoder")},
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(text))
    for words in (
        ["client", "prepare", source, "--out", tmp_path / "set", "--check-phi"],
        ["simulate", tmp_path / "run.yaml", "--out", tmp_path / "out"],
    ):
        done = CliRunner().invoke(app, [*map(str, words)])
        assert done.exit_code == 0, done.output

    encoder, _ = load_release(tmp_path / "out/encoder.safetensors")
    assert list(encoder.size) == size
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["data"]["size"] == size

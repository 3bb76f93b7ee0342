"""Volumes, from a hospital's files to an encoder, in a federation of processes: whole or in crops.

Each of two sites prepares NIfTI files of its own: brains of the MSD hippocampus set where
``../shared/data`` is there, else drawn ones.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from federation import Federation, federation

from confrere_client.hospital.registry import add
from confrere_client.ingest.prepare import Order, prepare
from confrere_client.ingest.preprocess_plan import Plan
from confrere_common.loading import parse_run
from confrere_common.release import load_release
from confrere_deploy.families import ALL_FAMILIES
from confrere_server.runs.queue import Folder, submit

pytestmark = pytest.mark.long

BRAINS = Path(__file__).parents[4] / "shared/data/mri_msd_hippocampus/images"
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


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory, snapshot: Path) -> Iterator[Federation]:
    """Return a federation whose sites lend volumes that they prepared."""
    root = tmp_path_factory.mktemp("volumes")
    kinds = {"study": "chaos", "data_sets": ["volumes"], "max_rounds": 10, "rosters": ["any"]}
    allowed = {**kinds, "methods": ["simmim", "byol"]}
    with federation(root, snapshot, names=SITES) as made:
        made.start_server()
        made.wait_for_server()
        for number, name in enumerate(SITES):
            place = root / f"{name}-prepared"
            order = Order(
                sources=(brains(root / f"{name}-files", number),), dataset=place,
                plan=Plan(modality="mr"),
            )  # fmt: skip
            prepare(order)
            made.join(name, min_images=2, preapproved_classes=[allowed])
            add(made.folder(name), "volumes", place, source="prepared", modality="mri")
            made.start_site(name)
        yield made


def trained(made: Federation, name: str) -> Folder:
    plain = {
        "name": name,
        "seeds": [0],
        "data": {
            "source": {"name": "site", "dataset": "volumes"},
            "image_px": 16, "channels": 1, "dims": 3, "crop_px": RUNS[name].get("crop_px"),
        },
        "augment": {"modality": "mri"},
        "train": {"batch": 2, "steps_per_round": 1, "device": "cpu"},
        "federation": {"rounds": 2, "min_sites": 2, "quorum": 1.0},
        **{part: RUNS[name][part] for part in ("method", "encoder")},
    }  # fmt: skip
    run = submit(made.workspace.runs, parse_run(plain, ALL_FAMILIES), roster={})
    made.wait(run, 120)
    return run


@pytest.mark.parametrize("name", RUNS)
def test_sites_pretrain_on_volumes_that_they_prepared(hospitals: Federation, name: str) -> None:
    run = trained(hospitals, name)

    encoder, card = load_release(run.path / "encoder.safetensors")
    closed = hospitals.closed(run)
    assert [facts["sites"] for facts in closed] == ["alpha,beta"] * 2
    assert list(encoder.size) == RUNS[name].get("crop_px", [16] * 3)
    assert card.training["method"] == RUNS[name]["method"]["name"]

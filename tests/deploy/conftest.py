"""A study small enough for a test, and a server on the loopback with two sites enrolled."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from served import enrolled, make_study, served

from confrere_client.hospital.site import SiteFolder
from confrere_server.start import Server

TINY = {
    "name": "tiny",
    "data": {"source": {"name": "npz", "path": "images.npz"}, "image_px": 16, "channels": 1},
    "encoder": {"name": "resnet", "width": 8, "stem": "small"},
    "method": "byol",
    "augment": {"modality": "microscopy"},
    "train": {"batch": 8, "steps_per_round": 2, "device": "cpu"},
    "federation": {"rounds": 3},
    "floors": "none",
}


def paint_set(path: Path, images: int = 60, sites: int = 2) -> None:
    """Write *images* whose class shows as the direction of their stripes."""
    generator = np.random.default_rng(0)
    labels = np.arange(images) % 3
    angles = labels[:, None, None] * np.pi / 3
    y, x = np.mgrid[:16, :16]
    wave = np.sin(0.9 * (np.cos(angles) * x + np.sin(angles) * y))
    noisy = 128 + 60 * wave + generator.normal(0, 20, (images, 16, 16))
    np.savez(
        path,
        train_images=noisy.clip(0, 255).astype(np.uint8),
        train_labels=labels[:, None],
        train_sites=np.array([f"site-{row % sites}" for row in range(images)]),
    )


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Return a run's file beside its images."""
    paint_set(tmp_path / "images.npz")
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(make_study(tmp_path_factory.mktemp("coordinator") / "study")) as found:
        yield found


@pytest.fixture(scope="module")
def north(server: Server, tmp_path_factory: pytest.TempPathFactory) -> SiteFolder:
    return enrolled(server.workspace, tmp_path_factory.mktemp("north"), "north")


@pytest.fixture(scope="module")
def south(server: Server, tmp_path_factory: pytest.TempPathFactory) -> SiteFolder:
    return enrolled(server.workspace, tmp_path_factory.mktemp("south"), "south")

"""A hospital reads in its worker's log which of a run's classes it lacks; nobody else is told."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scored import asking, errand, kept, site_with_scans, told

from confrere_client.daemon import worker
from confrere_client.hospital.registry import add
from confrere_client.hospital.site import SiteFolder


@pytest.fixture
def site(tmp_path: Path) -> SiteFolder:
    worker._say_once.cache_clear()
    return site_with_scans(tmp_path)


def outlined(folder: Path) -> Path:
    """Return a table of twelve people, of whom only the second structure is outlined."""
    folder.mkdir()
    rows = ["path,patient,mask"]
    for number in range(12):
        mask = np.zeros((16, 16), np.uint8)
        mask[4:12, 4:12] = 2
        Image.fromarray(90 * mask).save(folder / f"SMITH{number}.png")
        np.save(folder / f"{number}.npy", mask)
        rows.append(f"SMITH{number}.png,SMITH{number},{number}.npy")
    path = folder / "table.csv"
    path.write_text("\n".join(rows))
    return path


def test_classes_without_an_image_are_logged_once_a_run(
    site: SiteFolder, caplog: pytest.LogCaptureFixture
) -> None:
    run = asking(classes=["a", "b", "c"])

    with caplog.at_level(logging.WARNING, logger=worker.log.name):
        for round in (1, 2):
            asked = errand(site, run, round=round, evaluate=False)
            assert told(site, asked)["done"]

    assert caplog.text.count("run 'run-1': this site has no image of c: left out of its loss") == 1
    assert set(kept(site, asked).metrics) <= {"loss", "seconds"}


def test_structures_without_a_mask_are_logged_without_a_patient(
    site: SiteFolder, caplog: pytest.LogCaptureFixture
) -> None:
    add(site.folder, "ward", outlined(site.folder / "drawn"), replace=True)
    run = asking(task={"name": "segmentation", "width": 4}, classes=["organ", "tumour"])

    with caplog.at_level(logging.WARNING, logger=worker.log.name):
        assert told(site, errand(site, run, evaluate=False))["done"]

    assert "this site has no mask of organ: left out of its loss" in caplog.text
    assert "SMITH" not in caplog.text

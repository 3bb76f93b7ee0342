"""A hospital whose images are all marked test: models are scored on them, none is trained."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scored import asking, counts, errand, kept, paint, site_with_scans, told

from confrere_client.daemon.lessons import shelf
from confrere_client.hospital.registry import add
from confrere_client.hospital.site import SiteFolder
from confrere_common.config import Run
from confrere_common.loading import COMMON_FAMILIES, dump, parse_run

CLASSES = 2


@pytest.fixture
def site(tmp_path: Path) -> SiteFolder:
    return site_with_scans(tmp_path)


@pytest.fixture
def only_tests(site: SiteFolder) -> SiteFolder:
    """Return a site all of whose images are marked 'test'."""
    pixels = np.random.default_rng(0).integers(0, 255, (60, 16, 16), dtype=np.uint8)
    labels = np.array(["a", "b"])[np.arange(60) % 2]
    np.savez(site.folder / "tests.npz", test_images=pixels, test_labels=labels)
    made = add(
        site.folder, "ward", site.folder / "tests.npz", one_image_per_patient=True, replace=True
    )
    assert (made.images, made.only_scored) == (60, True)
    return site


def test_a_site_that_has_test_images_alone_scores_all_of_them(only_tests: SiteFolder) -> None:
    asked = errand(only_tests, asking())

    told(only_tests, asked)

    assert kept(only_tests, asked).images == 60
    assert sum(counts(kept(only_tests, asked))) == 60


def test_a_site_that_has_test_images_alone_trains_nothing(only_tests: SiteFolder) -> None:
    alone = {"stage": "pretrain", "method": {"name": "simclr", "hidden": 16, "out": 8}}
    plain = {**json.loads(dump(asking())), **alone}

    for run in (asking(), parse_run(plain, COMMON_FAMILIES)):
        shelf.cache_clear()
        said = told(only_tests, errand(only_tests, run, round=1, evaluate=False))
        assert said["refused"] == "no-labels"


def demanding(**data: Any) -> Run:
    plain = json.loads(dump(asking()))
    return parse_run({**plain, "data": {**plain["data"], **data}}, COMMON_FAMILIES)


def test_test_images_that_were_not_prepared_as_the_run_demands_are_not_scored(
    only_tests: SiteFolder,
) -> None:
    asked = errand(only_tests, demanding(preparation={"image_px": 999}))

    assert told(only_tests, asked)["refused"] == "other-preparation"


@pytest.mark.parametrize("trains", [False, True])
def test_test_images_of_other_axes_than_the_run_has_are_refused(
    site: SiteFolder, trains: bool
) -> None:
    volumes = np.random.default_rng(0).integers(0, 255, (40, 8, 16, 16), dtype=np.uint8)
    tests = {"test_images": volumes, "test_labels": np.array(["a", "b"])[np.arange(40) % 2]}
    if trains:
        paint(site.folder / "more.npz", **tests)
    else:
        np.savez(site.folder / "more.npz", **tests)
    add(site.folder, "ward", site.folder / "more.npz", one_image_per_patient=True, replace=True)
    shelf.cache_clear()

    assert told(site, errand(site, asking()))["refused"] == "data-unreadable"


def test_no_search_is_scored_where_nothing_was_learned_from(only_tests: SiteFolder) -> None:
    run = asking(task={"name": "retrieval", "out": 8})

    assert told(only_tests, errand(only_tests, run))["refused"] == "nothing-to-score"

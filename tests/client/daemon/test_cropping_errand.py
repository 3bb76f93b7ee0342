"""A hospital's worker trains on crops of its volumes, privately too, and scores them whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scored import errand, lent, told
from served import enrolled, make_study, served
from volumes import balls, crop_run

from confrere_client.daemon.lessons import shelf
from confrere_client.daemon.outbox import Outbox
from confrere_client.hospital.registry import add, images_for, registered
from confrere_client.hospital.site import SiteFolder
from confrere_client.privacy.budget import Ledger
from confrere_common.config import Run
from confrere_common.errors import ConfigError
from confrere_common.exchange import Update
from confrere_common.judged import read_evaluation
from confrere_common.loading import COMMON_FAMILIES, parse_run

PATIENTS = 48
SEGMENTATION = {"task": {"name": "segmentation", "width": 4}, "classes": ["ball"]}


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return volumes with an outline each; in half of them there is nothing."""
    return balls(tmp_path_factory.mktemp("balls"), PATIENTS, lack=PATIENTS // 2)


@pytest.fixture
def site(data_set: Path, tmp_path: Path) -> SiteFolder:
    with served(make_study(tmp_path / "study")) as server:
        found = enrolled(
            server.workspace, tmp_path / "site", "north", "{min_images: 4, min_cell: 2}"
        )
    add(found.folder, "ward", data_set, knobs={"dims": 3})
    return found


def asking(**sections: Any) -> Run:
    plain = crop_run(**{"data": {"source": {"name": "site"}, "split": "natural"}, **sections})
    return parse_run(plain, COMMON_FAMILIES)


def update_of(site: SiteFolder, run: Run, *, evaluate: bool = False) -> Update:
    asked = errand(site, run, evaluate=evaluate, round=2 if evaluate else 1)
    assert told(site, asked) == {"errand": asked.key, "done": True}
    update = Outbox(folder=site.outbox, key=site.outbox_key()).get(asked.key)
    assert isinstance(update, Update)
    return update


def test_a_site_pre_trains_on_crops_and_copies_no_pixel(site: SiteFolder) -> None:
    update = update_of(site, asking(method="byol"))

    assert update.images == PATIENTS
    assert any(tensor.abs().sum() > 0 for tensor in update.delta.values())
    assert not list((site.folder / "cache").rglob("pixels.npy"))


def test_a_private_round_on_crops_is_paid(site: SiteFolder) -> None:
    privacy = {"epsilon": 8, "patients_per_step": 6, "micro_batch": 4}

    update = update_of(site, asking(method={"name": "simmim", "block": 4}, privacy=privacy))

    assert update.metrics == {}
    assert Ledger(path=site.ledger, witness=site.ledger_witness).spent("ward", 1e-5) > 0


def test_held_out_volumes_are_scored_whole(site: SiteFolder) -> None:
    evaluation = {"min_cell": 2}
    run = asking(stage="finetune", finetune={**SEGMENTATION, "evaluation": evaluation})
    update_of(site, run)

    plain = read_evaluation(update_of(site, run, evaluate=True).description, 1, 2)

    (one,) = plain["tallies"]
    held = lent(site, run)
    assert held.images.cropped
    assert sum(n for side in ("positives", "negatives") for *_, n in one[side]) == len(held.asked)
    # which of them have the structure is told of whole volumes, not of their middle
    there = [bool(held.exam.whole_mask(int(row)).any()) for row in held.asked]
    middles = held.exam.known("mask", held.asked).numpy().reshape(len(held.asked), -1).any(1)
    assert sum(n for *_, n in one["positives"]) == sum(there) >= np.sum(middles)


def test_a_capped_site_keeps_its_fingerprint_whatever_the_cap(site: SiteFolder) -> None:
    evaluation = {"min_cell": 2}
    run = asking(stage="finetune", finetune={**SEGMENTATION, "evaluation": evaluation})
    asked = lent(site, run).asked
    site.policy.write_text(f"{{min_images: 4, min_cell: 2, max_images: {PATIENTS - 4}}}")
    shelf.cache_clear()

    fewer = lent(site, run)
    assert len(fewer.images) == PATIENTS - 4
    assert 0 < len(fewer.asked) <= len(asked)  # none is scored where the note is of other images


def test_sides_that_do_not_fit_the_data_set_are_refused(site: SiteFolder, tmp_path: Path) -> None:
    run = asking(method="byol", data={"source": {"name": "site"}, "crop_px": [8, 8], "dims": 2})

    with pytest.raises(ConfigError, match="crop_px has 2 sides, and the images have 3 axes"):
        images_for(registered(site.folder)["ward"], run, tmp_path / "cache")

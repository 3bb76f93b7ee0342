"""Who a hospital holds out of a fine-tuning: some patients of each class, whole, and the same."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny_runs import tuning

from confrere_client.data.catalog import catalog_of
from confrere_client.data.images import Images
from confrere_client.data.masks import Masks
from confrere_client.finetune.held_out import held_out
from confrere_client.finetune.lesson import site_lesson
from confrere_client.source import Record
from confrere_common.privacy.settings import Privacy

RUN = tuning(classes=["a", "b"])


def images_of(labels: list[str], patients: list[int]) -> Images:
    pixels = np.zeros((len(labels), 1, 8, 8), np.uint8)
    records = [
        Record(name=f"i{p}-{n:03d}", decode=lambda: pixels[0], patient=f"p{p}", label=label)
        for n, (label, p) in enumerate(zip(labels, patients, strict=True))
    ]
    return Images(pixels=pixels, catalog=catalog_of(records), skipped=(), digest="")


def names(images: Images, rows: NDArray[np.int64]) -> set[str]:
    return set(images.catalog.names[rows])


def test_who_has_a_mask_may_be_held_out_whatever_the_labels_say(tmp_path: Path) -> None:
    pixels = np.zeros((24, 1, 8, 8), np.uint8)
    mask = np.ones((8, 8), np.uint8)
    records = [
        Record(
            name=f"i{n:02d}", decode=lambda: pixels[0], patient=f"p{n // 2}",
            label="a" if n < 6 else "", mask=(lambda: mask) if n < 20 else None,
        )
        for n in range(24)
    ]  # fmt: skip
    masks = Masks(records=records, home=tmp_path, shape=(8, 8))
    catalog = catalog_of(records)
    images = Images(pixels=pixels, catalog=catalog, skipped=(), digest="", masks=masks)

    held = held_out(tuning("segmentation", knobs={"width": 4}, classes=["lesion"]), images)

    owners = set(catalog.patients[held])
    assert len(owners) == 2  # a quarter of the ten who have one
    assert owners < set(catalog.patients[:20])


@given(
    labels=st.lists(st.sampled_from(["a", "b", ""]), min_size=4, max_size=60),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=30)
def test_nobody_is_both_learned_from_and_held_out(labels: list[str], seed: int) -> None:
    patients = [int(n) for n in np.random.default_rng(seed).integers(0, 20, len(labels))]
    images = images_of(labels, patients)
    held = held_out(RUN, images)

    if len(set(np.flatnonzero(images.catalog.labels >= 0)) - set(held)):
        _, learned = site_lesson(RUN, images, held)

        owners = images.catalog.patients
        assert not set(owners[learned]) & set(owners[held])
        assert set(np.flatnonzero(images.catalog.labels >= 0)) == {
            row for row in (*learned, *held) if images.catalog.labels[row] >= 0
        }


def test_a_share_of_each_class_is_held_out_and_never_all_of_it() -> None:
    images = images_of(["a"] * 40 + ["b"] * 2 + ["c"], list(range(43)))
    run = tuning(classes=["a", "b", "c"])

    held = images.catalog.labels[held_out(run, images)]

    assert list(np.bincount(held, minlength=3)) == [10, 1, 0]


def test_who_else_is_there_moves_hardly_anybody() -> None:
    few = images_of(["a"] * 40, list(range(40)))
    more = images_of(["a"] * 44, list(range(44)))

    one, two = names(few, held_out(RUN, few)), names(more, held_out(RUN, more))

    assert len(one - two) <= 1


PRIVATE = replace(tuning(missing="keep"), privacy=Privacy(epsilon=8.0, delta=1e-5))


@pytest.mark.parametrize("run", [tuning(evaluation=None), PRIVATE])
def test_where_nothing_is_scored_nobody_is_held_out(run: object) -> None:
    assert len(held_out(run, images_of(["a"] * 9, list(range(9))))) == 0  # type: ignore[arg-type]

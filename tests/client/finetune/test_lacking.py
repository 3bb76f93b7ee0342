"""``lacking.lacking``: "Guarantee: nothing is said of the images but which of the run's classes
none of them has, and which one they have where they have no other."
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import drawn_images

from confrere_client.finetune.lacking import lacking, left_out, listed
from confrere_client.finetune.lesson import Lesson
from confrere_common.family import Named
from confrere_common.finetune import Finetune

NAMES = ("a", "b", "c", "d")


def finetune(task: str = "classification", missing: Any = None, **knobs: Any) -> Finetune:
    return Finetune(task=Named(name=task, knobs=knobs), classes=NAMES, missing=missing)


def said(of: Finetune, *counts: int) -> list[str]:
    return list(lacking(of, np.array(counts), "it"))


def out(of: Finetune, *counts: int) -> list[str]:
    return [name for name, left in zip(NAMES, left_out(of, np.array(counts)), strict=True) if left]


@pytest.mark.parametrize(
    ("task", "one"),
    [("classification", "image"), ("retrieval", "image"), ("segmentation", "mask"),
     ("detection", "box")],
)  # fmt: skip
def test_what_is_lacking_is_left_out_and_told_so(task: str, one: str) -> None:
    for missing in ("mask", None):
        of = finetune(task, missing)
        assert out(of, 5, 0, 2, 0) == ["b", "d"]
        assert said(of, 5, 0, 2, 0) == [f"it has no {one} of b, d: left out of its loss."]
        assert said(of, 5, 1, 2, 9) == []
    kept = finetune(task, "keep")
    assert out(kept, 5, 0, 2, 0) == []
    assert said(kept, 5, 0, 2, 0) == [
        f"it has no {one} of b, d: kept in its loss, so that it teaches that there is none."
    ]


def test_grades_beyond_all_that_a_site_has_are_left_out_and_those_between_stay() -> None:
    of = finetune(kind="ordinal")

    assert out(of, 5, 0, 2, 0) == ["d"]
    assert said(of, 5, 0, 2, 0) == [
        "it has no image of d: left out of its loss.",
        "it has no image of b: kept in its loss, as it has images of classes on either side.",
    ]
    assert out(of, 0, 0, 2, 3) == ["a", "b"]


def test_who_marked_nothing_leaves_out_nothing() -> None:
    for of in (finetune("segmentation"), finetune("detection"), finetune(kind="multilabel")):
        assert out(of, 0, 0, 0, 0) == []
        (told,) = said(of, 0, 0, 0, 0)
        assert told.endswith("of any class: none is left out, it teaches where they are not.")


def test_a_class_alone_teaches_nothing_and_that_is_told() -> None:
    alone = "it has images of b alone, and nothing is left to tell it from: it teaches nothing."

    for of in (finetune(), finetune("retrieval"), finetune(kind="ordinal")):
        assert any(one.startswith(alone) for one in said(of, 0, 7, 0, 0))
    for of in (finetune(missing="keep"), finetune("segmentation"), finetune(kind="multilabel")):
        assert not any("alone" in one for one in said(of, 0, 7, 0, 0))


def test_of_anomalies_nothing_is_said_as_no_classes_are_told_apart() -> None:
    assert said(finetune("anomaly", normal="a"), 5, 0, 0, 0) == []
    assert out(finetune("anomaly", normal="a"), 5, 0, 0, 0) == []


def test_what_is_said_changes_with_no_image_but_for_classes_that_none_has() -> None:
    """The guarantee above: counts of any size say the same."""
    few, many = ([*said(finetune(), *counts)] for counts in ((1, 0, 1, 0), (999, 0, 37, 0)))

    assert few == many


def test_of_many_names_the_first_few_are_listed() -> None:
    names = [str(n) for n in range(20)]

    assert listed(names, np.arange(20) < 3) == "0, 1, 2"
    assert listed(names, np.arange(20) < 13) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 3 more"


def lesson(folder: Path, task: str, kinds: Sequence[Sequence[int]], **changes: Any) -> Lesson:
    """Return images on which some of the run's classes are outlined and boxed."""
    images = drawn_images(folder, [[NAMES[kind - 1] for kind in each] for each in kinds], NAMES)
    of = replace(finetune(task), **changes)
    return Lesson(images=images, rows=np.arange(len(kinds)), finetune=of)


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_what_no_mask_and_no_box_holds_is_left_out_of_the_prior(tmp_path: Path, task: str) -> None:
    kinds = [[1], [1, 3], [], [3]]

    found = lesson(tmp_path, task, kinds)

    assert found.holds.astype(int).tolist() == [[1, 0, 0, 0], [1, 0, 1, 0], [0] * 4, [0, 0, 1, 0]]
    assert found.counts.tolist() == [2, 0, 2, 0]
    priors = found.known("prior", np.array([0, 3]))
    assert priors.isfinite().tolist() == [[True, False, True, False]] * 2
    some = replace(found, rows=np.array([0, 2]))
    assert some.known("prior", np.array([0])).isfinite().tolist() == [[True, False, False, False]]
    empty, kept = replace(found, rows=np.array([2])), lesson(tmp_path, task, kinds, missing="keep")
    assert np.isfinite(empty.prior).all()
    assert np.isfinite(kept.prior).all()

"""``describing.describe``: "Guarantee: every count that leaves is of *smallest* patients or more,
and so is what is left of all patients; no text but the run's own leaves."
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from described import ASKED, closed, record, records, told
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from confrere_client.data.images import images_of
from confrere_client.describing import KEPT, TooFewPatients, counted, describe
from confrere_client.ingest.prepare import Order, prepare
from confrere_client.ingest.preprocess_plan import Plan
from confrere_client.marking import marks_that_leave
from confrere_client.source import Record, open_source
from confrere_common.codes import code_of
from confrere_common.describe import (
    MEASURES,
    Describe,
    Description,
    Measure,
    description_text,
    measures_of,
)
from confrere_common.family import Named
from confrere_common.marks import read_marks

NAMES = Measure(title="names", names=tuple("abcdefg"))
EDGES = Measure(title="edges", edges=tuple(range(13)))


@settings(deadline=None, max_examples=300)
@given(
    places=st.lists(st.integers(-1, 6), min_size=2, max_size=60),
    smallest=st.integers(2, 12),
    measure=st.sampled_from([NAMES, EDGES]),
)
def test_no_count_is_small_and_none_can_be_found_by_subtracting(
    places: list[int], smallest: int, measure: Measure
) -> None:
    if len(places) < smallest:
        return

    found = counted(np.array(places), measure, smallest)

    counts = [count for _, _, count in found.cells]
    place_P = np.array(places)
    for first, after, count in found.cells:
        assert count == int(np.sum((place_P >= first) & (place_P < after)))
    assert all(count >= smallest for count in counts)
    assert found.untold == 0 or found.untold >= smallest
    assert sum(counts) + found.untold == len(places)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_whatever_the_images_are_what_leaves_is_sound(data: st.DataObject) -> None:
    shapes = st.sampled_from([[1, 64, 64], [3, 900, 700], [1, 40, 512, 512]])
    some = data.draw(
        st.lists(
            st.builds(
                record,
                st.integers(0, 10**6),
                patient=st.sampled_from(["", "Ada", "Bea"]),
                label=st.sampled_from(["", "ill", "well", "Mueller has it"]),
                source_shape=shapes,
                spacing_mm=st.lists(st.floats(0, 20), max_size=3),
                mean=st.floats(0, 1),
                std=st.none() | st.floats(0, 1),
                tag_vendor=st.sampled_from(["", "ge", "Mueller's own scanner"]),
                tag_modality=st.sampled_from([None, "ct", "mri", "nonsense"]),
            ),
            max_size=40,
        )
    )
    try:
        found = describe(some, ASKED, smallest=3)
    except TooFewPatients:
        assert len({one.patient for one in some}) < 5
        return

    assert "Mueller" not in description_text(found, ASKED)
    assert found.smallest == 5


def test_a_patient_counts_once_however_many_images_she_has() -> None:
    many = [record(number, patient="Ada") for number in range(50)]

    found = describe([*many, *records(9)], ASKED)

    assert found.patients == 10
    assert sum(count for _, _, count in found.counts["mean"].cells) == 10


def test_the_larger_of_the_run_s_and_the_hospital_s_limit_holds() -> None:
    assert describe(records(30), Describe(min_cell=5), smallest=12).smallest == 12
    assert describe(records(30), Describe(min_cell=12), smallest=5).smallest == 12


def test_too_few_patients_tell_nothing() -> None:
    with pytest.raises(TooFewPatients) as caught:
        describe(records(4), ASKED)

    assert code_of(caught.value) == "too-few-patients"


def nameless(number: int) -> Record:
    one = record(number)
    return Record(name=one.name, decode=closed, patient=one.name, facts=one.facts)


def test_images_of_nobody_known_are_not_counted_unless_somebody_vouches() -> None:
    unknown = [nameless(number) for number in range(100, 120)]

    assert describe([*unknown, *records(10)], ASKED).patients == 10
    assert describe([*unknown, *records(10)], ASKED, vouched=True).patients == 30


def count_of(found: Description, name: str, word: str) -> int:
    cell = measures_of(ASKED)[name].names.index(word)
    return sum(count for first, _, count in found.counts[name].cells if first == cell)


def test_labels_are_counted_by_the_names_that_the_run_brought() -> None:
    some = [record(n, label=("ill", "well", "odd")[n % 3]) for n in range(60)]

    found = describe([*some, *(record(100 + n) for n in range(7))], ASKED)

    assert count_of(found, "label", "ill") == count_of(found, "label", "well") == 20
    assert count_of(found, "label", "other") == 20
    assert found.counts["label"].untold == 7


def test_without_names_only_how_many_have_a_label_is_told() -> None:
    some = [record(n, label=("ill", "well")[n % 2]) for n in range(20)]

    found = describe(some, Describe())

    assert found.counts["label"].cells == ((0, 1, 20),)


def test_a_rare_label_takes_another_with_it() -> None:
    some = [record(n, label="ill" if n < 2 else "well") for n in range(40)]

    found = describe(some, ASKED)

    assert found.counts["label"].cells == ()
    assert found.counts["label"].untold == 40


def test_what_a_prepared_data_set_keeps_is_not_opened() -> None:
    found = told(12, source_shape=[1, 30, 512, 512], spacing_mm=[2.5, 0.7, 0.7], tag_modality="ct")

    assert count_of(found, "modality", "ct") == 12
    for name, value in {
        "longer_px": 512, "slices": 30, "spacing_mm": 0.7, "slice_spacing_mm": 2.5, "mean": 0.5
    }.items():  # fmt: skip
        ((first, after, count),) = found.counts[name].cells
        edges = MEASURES[name].edges
        assert edges[first] <= value
        assert after == len(edges) or value < edges[after]
        assert count == 12


def test_an_image_of_which_nothing_is_kept_is_opened() -> None:
    def bright() -> NDArray[np.uint16]:
        return np.full((3, 100, 50), 2**16 - 1, np.uint16)

    found = describe([record(n, decode=bright) for n in range(8)], ASKED, modality="cxr")

    assert count_of(found, "channels", "colour") == 8
    assert count_of(found, "bits", "16") == 8
    assert count_of(found, "modality", "dx") == 8
    assert found.counts["mean"].cells == ((15, 16, 8),)
    assert found.counts["vendor"].untold == 8


def test_images_that_cannot_be_read_are_patients_without_a_value(tmp_path: Path) -> None:
    broken = [Record(name=str(tmp_path / f"{n}"), decode=closed, patient=f"{n}") for n in range(6)]

    found = describe(broken, ASKED)

    assert found.patients == 6
    assert found.counts["mean"].untold == 6


def prepared(folder: Path, volumes: NDArray[np.uint8], **knobs: Any) -> Sequence[Record]:
    some = {"train_images": volumes[..., None], "train_patients": np.arange(len(volumes))}
    (folder / "in").mkdir()
    np.savez(folder / "in/v.npz", dims=3, **some)
    plan = Plan(image_px=None)
    prepare(Order(sources=(folder / "in",), dataset=folder / "set", plan=plan))
    return open_source(Named(name="prepared", knobs={"path": "set", **knobs}), folder).records()


@pytest.mark.parametrize("slices", ["none", "axial"])
def test_a_prepared_data_set_tells_the_marks_that_its_opened_images_have(
    tmp_path: Path, slices: str
) -> None:
    noise = np.random.default_rng(1).integers(0, 200, (6, 4, 5, 4), np.uint8)
    kept = prepared(tmp_path, noise, slices=slices)
    terms: dict[str, Any] = {"allowed": True, "run_id": "run-1", "most_bytes": 10**6}
    asked = Describe(duplicates=True)

    found = marks_that_leave(kept, asked, **terms)
    opened = marks_that_leave([replace(one, facts={}) for one in kept], asked, **terms)

    assert found == opened
    assert len(read_marks(found, images=24).marks) == (24 if slices == "axial" else 6)


def test_a_prepared_data_set_tells_without_being_opened_what_it_would_tell_opened(
    tmp_path: Path,
) -> None:
    noise = np.random.default_rng(0).integers(0, 200, (12, 6, 5, 4), np.uint8)
    kept = prepared(tmp_path, noise)

    found = describe([replace(one, decode=closed) for one in kept], ASKED)
    opened = describe([replace(one, facts={}) for one in kept], ASKED)

    assert {*kept[0].facts} == {*KEPT}
    for name in ("images", "longer_px", "slices", "shorter_share", "bits", "mean", "contrast"):
        assert found.counts[name] == opened.counts[name]
    assert sum(count for _, _, count in found.counts["mean"].cells) == 12


def test_sex_and_age_of_a_prepared_data_set_are_in_no_description_and_no_run(
    tmp_path: Path,
) -> None:
    """``sources/prepared.py``: "Guarantee: sex and age are told to an evaluation at the site and to
    nothing else: no image of a run and no description knows them."
    """
    rng, found = np.random.default_rng(0), []
    pictures = [rng.integers(0, 200, (9, 7), np.uint8) for _ in range(12)]
    for columns in ("", ",sex,age"):
        folder = tmp_path / f"with{columns}"
        (folder / "in").mkdir(parents=True)
        lines = [f"path,patient{columns}"]
        for number, picture in enumerate(pictures):
            Image.fromarray(picture).save(folder / f"in/{number}.png")
            lines.append(f"{number}.png,p{number}" + (",F,67" if columns else ""))
        (folder / "in/t.csv").write_text("\n".join(lines))
        secret = tmp_path / "patient.key"
        prepare(
            Order(
                sources=(folder / "in",), dataset=folder / "set", table=folder / "in/t.csv",
                secret=secret,
            )
        )  # fmt: skip
        source = open_source(Named(name="prepared", knobs={"path": "set"}), folder)
        images = images_of(source, image_px=8, cache_dir=tmp_path / "cache")
        shared = json.loads((folder / "set/report.json").read_bytes())["shared"]
        told = description_text(describe(source.records(), ASKED), ASKED)
        found.append((told, shared, sorted(vars(images.catalog)), source.records()[0].about))

    (plain, plain_shared, plain_catalog, nothing), (text, shared, catalog, about) = found
    assert (nothing, about) == ({}, {"sex": "female", "age": "60-69"})
    assert (text, shared, catalog) == (plain, plain_shared, plain_catalog)
    assert not {"sex", "age", "about"} & set(catalog)

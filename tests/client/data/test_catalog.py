import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confrere_client.data.catalog import catalog_of, check_patients, ordered_classes, split_name
from confrere_client.source import Record
from confrere_common.errors import DataError


def record(name: str, patient: str, **known: str) -> Record:
    return Record(name=name, decode=lambda: np.zeros((1, 1, 1), np.uint8), patient=patient, **known)


RECORDS = (
    record("a", "Erika", site="north", label="10"),
    record("b", "Max", site="south", label="2", split="test"),
    record("c", "Erika", site="north"),
)


def test_numbers_patients_by_first_sight_and_forgets_their_keys() -> None:
    catalog = catalog_of(RECORDS)

    assert catalog.patients.tolist() == [0, 1, 0]
    assert catalog.patient_count == 2
    assert "Erika" not in repr(catalog)


def test_numbers_labels_by_class_and_unlabelled_as_minus_one() -> None:
    catalog = catalog_of(RECORDS)

    assert catalog.classes == ("2", "10")
    assert catalog.labels.tolist() == [1, 0, -1]


def test_keeps_sites_splits_and_names() -> None:
    catalog = catalog_of(RECORDS)

    assert catalog.sites.tolist() == ["north", "south", "north"]
    assert catalog.splits.tolist() == ["", "test", ""]
    assert catalog.names.tolist() == ["a", "b", "c"]


@given(rows=st.lists(st.integers(0, 2), max_size=6))
@settings(deadline=None, max_examples=25)
def test_selects_rows_in_any_order(rows: list[int]) -> None:
    catalog = catalog_of(RECORDS)

    chosen = catalog.select(rows)

    assert len(chosen) == len(rows)
    assert chosen.names.tolist() == [catalog.names[row] for row in rows]
    assert chosen.classes == catalog.classes
    assert chosen.patient_count == len({int(catalog.patients[row]) for row in rows})


def test_selects_by_a_mask() -> None:
    catalog = catalog_of(RECORDS)

    assert catalog.select(catalog.sites == "north").names.tolist() == ["a", "c"]


def test_classes_of_words_stand_by_alphabet() -> None:
    assert ordered_classes(iter(["nv", "10", "2", "nv"])) == ("10", "2", "nv")


def test_a_catalog_of_nothing_is_empty() -> None:
    assert catalog_of([]).patient_count == 0


@pytest.mark.parametrize(
    ("written", "meant"),
    [("Train", "train"), ("validation", "val"), (" TESTING ", "test"), ("", ""), (" ", "")],
)
def test_knows_how_people_call_splits(written: str, meant: str) -> None:
    assert split_name(written) == meant


def test_accepts_patients_that_stay_in_one_place() -> None:
    check_patients(RECORDS[:2])


@pytest.mark.parametrize(
    "known", [{"site": "south"}, {"site": ""}, {"site": "north", "split": "test"}]
)
def test_refuses_a_patient_in_two_places_by_number_not_by_name(known: dict[str, str]) -> None:
    with pytest.raises(DataError, match="1 of 2 patients") as told:
        check_patients([*RECORDS, record("d", "Erika", **known)])

    assert "Erika" not in str(told.value)

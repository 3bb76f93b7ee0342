"""Guarantee: no exact age, date or free text of a table enters a data set by these columns."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from confrere_client.demography import BANDS, KEPT, band_of, kept_of
from confrere_client.evaluation.factors import ages
from confrere_client.evaluation.fairness import age_bands


@given(column=st.sampled_from(["sex", "age"]), cell=st.text() | st.integers(0, 10**6).map(str))
def test_whatever_a_cell_says_only_listed_values_are_kept(column: str, cell: str) -> None:
    assert kept_of(column, cell) in {"", *KEPT[column]}


@pytest.mark.parametrize(
    ("written", "band"),
    [("0", "0-9"), ("003M", "0-9"), ("17", "10-17"), ("18", "18-29"), ("69.9", "60-69"),
     ("089Y", "80-89"), ("90", "90+"), ("104", "90+"), ("90+", "90+"), ("19610412", ""),
     ("12.04.1961", ""), ("121", ""), ("about 60", ""), ("65-67", "")],
)  # fmt: skip
def test_an_age_becomes_its_band_and_what_is_none_nothing(written: str, band: str) -> None:
    assert band_of(written) == band


@given(years=st.integers(0, 120))
def test_a_band_falls_into_the_group_that_its_ages_fall_into(years: int) -> None:
    assert ages([band_of(str(years))]).tolist() == age_bands(np.array([float(years)])).tolist()
    assert band_of(band_of(str(years))) in BANDS

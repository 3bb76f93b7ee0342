"""What a run may ask of secure aggregation, and what no site goes below."""

import pytest
from pydantic import ValidationError

from confrere_common.secagg.section import (
    SecureAggregation,
    bits_within,
    least_threshold,
    threshold_of,
)


@pytest.mark.parametrize(
    ("sites", "due"), [(3, 2), (4, 3), (5, 4), (6, 4), (7, 5), (10, 7), (30, 20), (50, 34)]
)
def test_the_least_threshold_is_two_thirds_and_over_a_half(sites: int, due: int) -> None:
    assert least_threshold(sites) == due
    assert threshold_of(2 / 3, sites) == due


@pytest.mark.parametrize("sites", range(3, 100))
def test_colluders_below_a_third_can_not_forge_two_sets_of_survivors(sites: int) -> None:
    # Two sets of survivors take 2t signatures; each honest site gives one.
    assert 2 * least_threshold(sites) - sites >= 1
    assert least_threshold(sites) <= threshold_of(0.9, sites) <= sites
    assert threshold_of(1.0, sites) == sites


@pytest.mark.parametrize(("sites", "due"), [(3, 26), (64, 26), (65, 25), (128, 25), (1024, 22)])
def test_bits_shrink_with_sites(sites: int, due: int) -> None:
    assert bits_within(26, sites) == due


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 0.5},
        {"threshold": 1.1},
        {"bits": 27},
        {"bits": 8},
        {"clip": 0},
        {"clip": float("nan")},
        {"weight_max": 0},
        {"thresold": 1},
    ],
)
def test_a_section_that_protects_less_is_no_section(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        SecureAggregation(**wrong)

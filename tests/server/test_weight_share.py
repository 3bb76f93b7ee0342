"""No site weighs more than its share of a mean, however many images it claims."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from site_updates import honest, update

from confrere_server.admission import capped, surely_uncut, weight_cap


@settings(deadline=None, max_examples=200)
@given(
    weights=st.lists(st.integers(1, 10**9), min_size=1, max_size=12),
    share=st.sampled_from([0.1, 0.25, 1 / 3, 0.4, 0.5, 0.6, 1.0]),
)
def test_no_site_is_over_its_share_or_all_weigh_the_same(weights: list[int], share: float) -> None:
    cap = weight_cap(weights, share)
    cut = [min(weight, cap) for weight in weights]

    if share * len(weights) <= 1:
        assert cut == [min(weights)] * len(weights)
    else:
        assert max(cut) <= share * sum(cut) * (1 + 1e-9)
    # And no more is cut than must be: either nothing is, or the largest are at their share.
    if max(weights) > share * sum(weights) and share * len(weights) > 1:
        assert max(cut) >= share * sum(cut) * (1 - 1e-9)
    if max(weights) <= share * sum(weights) and share * len(weights) > 1:
        assert cut == weights


@pytest.mark.parametrize(
    ("weights", "due"),
    [
        ([5], [5]),  # alone, it is all there is
        ([1, 10**9], [1, 1]),  # of two, one must have at least a half
        ([100, 100, 10**9], [100, 100, 133]),
        ([100, 10**9, 10**9], [100, 200, 200]),
        ([100] * 5, [100] * 5),
        ([300, 200, 100, 100, 50], [300, 200, 100, 100, 50]),
    ],
)
def test_few_sites_are_cut_exactly_so(weights: list[int], due: list[int]) -> None:
    cut = [min(weight, int(weight_cap(weights, 0.4))) for weight in weights]

    assert cut == due


@settings(deadline=None, max_examples=100)
@given(
    images=st.lists(st.integers(1, 1000), min_size=1, max_size=9),
    share=st.sampled_from([0.3, 0.4, 0.5, 1.0]),
)
def test_a_stream_is_cut_as_the_whole_would_be_whatever_its_order(
    images: list[int], share: float
) -> None:
    updates = [update(f"site-{place}", images=count) for place, count in enumerate(images)]
    cap = weight_cap(images, share)

    found = {one.site: one.images for one in capped(iter(updates), share)}

    assert found == {
        f"site-{place}": max(1, int(min(count, cap))) for place, count in enumerate(images)
    }


@settings(deadline=None, max_examples=100)
@given(
    images=st.lists(st.integers(1, 50), min_size=1, max_size=8),
    share=st.sampled_from([0.3, 0.4, 0.6]),
    data=st.data(),
)
def test_who_is_surely_uncut_is_so_whoever_answers(
    images: list[int], share: float, data: st.DataObject
) -> None:
    enrolled = {f"site-{place}": count for place, count in enumerate(images)}
    least = data.draw(st.integers(1, len(images)))
    answering = data.draw(st.permutations(list(enrolled)))
    answering = answering[: data.draw(st.integers(least, len(images)))]

    sure = surely_uncut(enrolled, share, least)
    cap = weight_cap([enrolled[site] for site in answering], share)

    assert all(enrolled[site] <= cap + 1e-9 for site in sure & set(answering))


def test_few_updates_are_held_back_while_a_stream_is_cut() -> None:
    taken = 0

    def stream() -> Any:
        nonlocal taken
        for place in range(50):
            taken += 1
            yield update(f"site-{place}", images=1 + 37 * place % 11)

    ahead = [taken - given for given, _ in enumerate(capped(stream(), 0.4))]

    assert max(ahead) <= 3


def test_a_site_that_claims_a_billion_images_moves_the_mean_by_its_share_alone() -> None:
    updates = [*honest(), update("bad", 99, images=10**9)]

    cut = list(capped(iter(updates), 0.4))

    bad = next(one for one in cut if one.site == "bad")
    assert bad.images <= 0.4 * sum(one.images for one in cut)

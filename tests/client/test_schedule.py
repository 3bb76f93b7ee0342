"""When a site learns how fast, and from which images."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from confrere_client.schedule import batches, draws, rate, steps_in_round
from confrere_common.config import Train

shares = st.floats(0, 1)
warmups = st.floats(0, 0.99)


def test_the_rate_rises_to_its_peak_and_falls_to_nothing() -> None:
    rates = [rate(progress, peak=2.0, warmup=0.5) for progress in (0, 0.25, 0.5, 0.75, 1)]

    assert rates == pytest.approx([0, 1, 2, 1, 0])


def test_without_warmup_the_rate_starts_at_its_peak() -> None:
    assert rate(0.0, peak=3.0, warmup=0.0) == 3.0


@settings(deadline=None, max_examples=50)
@given(progress=shares, warmup=warmups)
def test_the_rate_stays_between_nothing_and_its_peak(progress: float, warmup: float) -> None:
    assert 0 <= rate(progress, peak=1.0, warmup=warmup) <= 1


@settings(deadline=None, max_examples=50)
@given(one=shares, two=shares, warmup=warmups)
def test_after_the_warmup_the_rate_never_rises(one: float, two: float, warmup: float) -> None:
    early, late = sorted(max(progress, warmup) for progress in (one, two))

    assert rate(late, peak=1.0, warmup=warmup) <= rate(early, peak=1.0, warmup=warmup)


@pytest.mark.parametrize(
    ("train", "images", "due"),
    [
        (Train(batch=10), 100, 10),
        (Train(batch=10, epochs_per_round=2), 100, 20),
        (Train(batch=10, epochs_per_round=0.5), 100, 5),
        (Train(batch=10, epochs_per_round=0.001), 100, 1),
        (Train(batch=64), 7, 1),
        (Train(batch=64, epochs_per_round=3), 7, 3),
        (Train(batch=64), 1, 1),
        (Train(batch=10, steps_per_round=4), 100, 4),
        (Train(batch=10, steps_per_round=4), 1, 4),
    ],
)
def test_a_round_has_as_many_steps_as_the_run_says(train: Train, images: int, due: int) -> None:
    assert steps_in_round(train, images) == due


@settings(deadline=None, max_examples=50)
@given(
    images=st.integers(1, 40),
    batch=st.integers(1, 60),
    steps=st.integers(0, 12),
    seed=st.integers(0, 9),
)
def test_every_batch_is_full_sorted_and_without_repetition(
    images: int, batch: int, steps: int, seed: int
) -> None:
    found = list(batches(images, batch, steps, np.random.default_rng(seed)))

    assert len(found) == steps
    for positions in found:
        assert len(positions) == min(batch, images)
        assert np.all(np.diff(positions) > 0)
        assert 0 <= positions.min() <= positions.max() < images


def test_a_pass_sees_every_image_once() -> None:
    found = list(batches(12, 4, 6, np.random.default_rng(0)))

    assert sorted(np.concatenate(found[:3])) == list(range(12))
    assert sorted(np.concatenate(found[3:])) == list(range(12))
    assert not np.array_equal(found[0], found[3])


def test_what_is_drawn_depends_on_seed_site_and_round_alone() -> None:
    def first(site: str, seed: int, round: int) -> tuple[int, int]:
        order, generator = draws(site, seed=seed, round=round)
        return int(order.integers(2**62)), int(torch.randint(2**62, (), generator=generator))

    places = [("a", 0, 1), ("b", 0, 1), ("a", 1, 1), ("a", 0, 2), ("a", 2**63 - 1, 1), ("é", 0, 1)]
    found = [first(*place) for place in places]

    assert found == [first(*place) for place in places]
    assert len({order for order, _ in found}) == len({torch for _, torch in found}) == len(places)

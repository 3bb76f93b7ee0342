"""The trimmed mean leaves the extremes of every coordinate out, and only those."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from confrere_common.errors import ConfigError
from confrere_common.exchange import Update
from confrere_common.family import Named
from confrere_server.rule import RULES
from confrere_server.rules.trimmed_mean import Config, trimmed_mean


def joined(values: Tensor, trim: float) -> Tensor:
    updates = [
        Update(site="north", round=1, delta={"w": v}, images=1 + i) for i, v in enumerate(values)
    ]
    return trimmed_mean(updates, Config(trim=trim))["w"]


def drawn(sites: int) -> Tensor:
    return torch.randn(sites, 11, generator=torch.Generator().manual_seed(sites))


@given(sites=st.integers(1, 20))
@settings(deadline=None, max_examples=15)
def test_without_trimming_it_is_the_unweighted_mean(sites: int) -> None:
    values = drawn(sites)

    torch.testing.assert_close(joined(values, 0.0), values.mean(0))


@given(sites=st.integers(1, 40), trim=st.sampled_from([0.05, 0.1, 0.25, 0.3, 0.49]))
@settings(deadline=None, max_examples=30)
def test_it_is_the_mean_of_the_sorted_middle(sites: int, trim: float) -> None:
    values = drawn(sites)
    cut = max(int(sites * trim + 1e-9), sites >= 5)
    expected = np.sort(values.numpy(), axis=0)[cut : sites - cut].mean(0)

    np.testing.assert_allclose(joined(values, trim).numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sites", [5, 6, 9, 19])
def test_from_five_answers_on_one_that_is_anything_is_borne(sites: int) -> None:
    honest = drawn(sites - 1)
    poisoned = torch.cat([honest, torch.full((1, 11), 1e6)])

    found = joined(poisoned, Config().trim)

    assert bool((found >= honest.amin(0)).all())
    assert bool((found <= honest.amax(0)).all())


def test_rounding_of_the_share_does_not_lose_a_cut() -> None:
    values = torch.zeros(100, 1)
    values[:29] = 1e6

    assert joined(values, 0.29).item() == 0


def test_one_answer_always_stays() -> None:
    values = torch.tensor([[1.0], [3.0]])

    assert joined(values, 0.4999999999999).item() == 2


def test_a_share_of_a_half_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"trim is 0\.5"):
        RULES.configure(Named(name="trimmed_mean", knobs={"trim": 0.5}))

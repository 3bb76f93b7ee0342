"""FedU2's aggregator steps to where every site's change agrees."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from confrere_common.exchange import Update
from confrere_server.rules.fedu2 import Config, fedu2, nearest_to_zero


def joined(rows_KP: torch.Tensor, **knobs: float) -> torch.Tensor:
    updates = [
        Update(site=str(k), round=1, delta={"w": row_P}, images=1 + k)
        for k, row_P in enumerate(rows_KP)
    ]
    return fedu2(updates, Config(**knobs))["w"]


@given(sites=st.integers(1, 7), entries=st.integers(2, 9), seed=st.integers(0, 999))
@settings(deadline=None, max_examples=25)
def test_the_step_is_against_no_site_s_change(sites: int, entries: int, seed: int) -> None:
    rows_KP = torch.randn(sites, entries, generator=torch.Generator().manual_seed(seed))

    step_P = joined(rows_KP, length=1.0)

    units_KP = rows_KP / rows_KP.norm(dim=1, keepdim=True)
    assert (units_KP @ step_P >= step_P @ step_P - 1e-4).all()


@given(sites=st.integers(1, 6), seed=st.integers(0, 999))
@settings(deadline=None, max_examples=25)
def test_shares_are_shares_and_nothing_near_is_shorter(sites: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows_KP = rng.normal(size=(sites, 4))
    gram_KK = rows_KP @ rows_KP.T

    shares_K = nearest_to_zero(gram_KK)

    assert shares_K.min() >= 0
    assert shares_K.sum() == pytest.approx(1)
    others = rng.dirichlet(np.ones(sites), size=200)
    lengths = np.einsum("nk,kj,nj->n", others, gram_KK, others)
    assert shares_K @ gram_KK @ shares_K <= lengths.min() + 1e-6


def test_two_changes_at_a_right_angle_give_the_one_between_them() -> None:
    step_P = joined(torch.tensor([[3.0, 0.0], [0.0, 5.0]]))

    torch.testing.assert_close(step_P, torch.tensor([2.0, 2.0]))  # mean length 4, times (1/2, 1/2)


def test_the_authors_length_is_two_whatever_the_sites_did() -> None:
    step_P = joined(torch.tensor([[0.3, 0.0], [0.3, 0.0]]), length=2.0)

    torch.testing.assert_close(step_P, torch.tensor([2.0, 0.0]))


def test_changes_that_cancel_move_nothing() -> None:
    step_P = joined(torch.tensor([[1.0, 0.0], [-2.0, 0.0]]))

    torch.testing.assert_close(step_P, torch.zeros(2), rtol=0, atol=1e-6)


def test_a_site_that_did_not_move_has_no_say() -> None:
    step_P = joined(torch.tensor([[1.0, 2.0], [0.0, 0.0]]))

    torch.testing.assert_close(step_P, torch.tensor([1.0, 2.0]))


def test_a_change_of_hardly_anything_has_its_direction_and_breaks_nothing() -> None:
    rows_KP = torch.tensor([[100.0, 0.0], [0.0, 1.2e-38]])

    assert torch.allclose(joined(rows_KP, length=1.0), torch.tensor([0.5, 0.5]))

"""SimCLR: the cross-entropy of finding one's twin, against closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from confrere_common.parts.contrast import nt_xent


def by_hand(one: torch.Tensor, two: torch.Tensor, temperature: float) -> list[float]:
    """The paper's formula, one pair at a time."""
    views = [[float(x) for x in view] for view in [*one, *two]]
    count = len(one)

    def similarity(a: list[float], b: list[float]) -> float:
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    def row(i: int, j: int) -> float:
        near = math.exp(similarity(views[i], views[j]) / temperature)
        every = sum(
            math.exp(similarity(views[i], views[k]) / temperature)
            for k in range(2 * count)
            if k != i
        )
        return -math.log(near / every)

    return [(row(i, i + count) + row(i + count, i)) / 2 for i in range(count)]


@settings(deadline=None, max_examples=15)
@given(
    count=st.integers(1, 4), temperature=st.sampled_from([0.1, 0.2, 1.0]), seed=st.integers(0, 99)
)
def test_equals_the_formula_computed_pair_by_pair(
    count: int, temperature: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    one, two = torch.randn(2, count, 5, generator=generator)

    losses_B = nt_xent(one, two, temperature)

    expected = torch.tensor(by_hand(one, two, temperature))
    torch.testing.assert_close(losses_B, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("count", [2, 5])
def test_orthogonal_images_have_the_closed_form(count: int) -> None:
    views = torch.eye(count)

    losses_B = nt_xent(views, 3 * views, temperature=0.5)

    expected = math.log(1 + (2 * count - 2) * math.exp(-1 / 0.5))
    torch.testing.assert_close(losses_B, torch.full((count,), expected))


def test_images_that_look_all_alike_are_found_by_chance() -> None:
    losses_B = nt_xent(torch.ones(4, 3), torch.ones(4, 3), temperature=0.2)

    torch.testing.assert_close(losses_B, torch.full((4,), math.log(7)))


def test_one_image_has_no_negatives_so_neither_loss_nor_gradient() -> None:
    one = torch.randn(1, 4, requires_grad=True)

    loss_B = nt_xent(one, torch.randn(1, 4), temperature=0.2)
    loss_B.sum().backward()

    assert loss_B.tolist() == [0.0]
    assert one.grad is not None
    torch.testing.assert_close(one.grad, torch.zeros(1, 4))

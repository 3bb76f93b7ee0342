"""A batch in pieces: the same gradient, and more pieces when memory runs out."""

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from confrere_client.pieces import Pieces


def losses_with(weight: torch.Tensor, most: int, asked: list[int]):
    """Losses of a linear model on a machine that holds at most so many images."""

    def losses(one_BF: torch.Tensor, two_BF: torch.Tensor) -> torch.Tensor:
        asked.append(len(one_BF))
        if len(one_BF) > most:
            raise torch.OutOfMemoryError
        return ((one_BF @ weight - two_BF.sum(1)) ** 2).reshape(-1)

    return losses


@settings(deadline=None, max_examples=25)
@given(images=st.integers(1, 12), most=st.integers(1, 12), seed=st.integers(0, 99))
def test_gradient_and_loss_do_not_depend_on_the_pieces(images: int, most: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    views = [torch.randn(images, 3, generator=generator, dtype=torch.float64) for _ in range(2)]
    weight = torch.randn(3, generator=generator, dtype=torch.float64).requires_grad_()
    whole = losses_with(weight, images, [])(*views).mean()
    (due,) = torch.autograd.grad(whole, weight)
    whole = whole.detach()

    pieces = Pieces(apart=True)
    found = pieces.backward(losses_with(weight, most, []), views, nullcontext, [weight])

    assert weight.grad is not None
    assert torch.allclose(weight.grad, due.to(weight.grad.dtype), rtol=1e-4, atol=1e-4)
    assert float(found) == pytest.approx(float(whole), rel=1e-4, abs=1e-5)


def test_once_divided_a_batch_stays_divided() -> None:
    weight, asked = torch.zeros(3, requires_grad=True), []
    views, losses = [torch.ones(8, 3), torch.ones(8, 3)], losses_with(weight, 2, asked)
    pieces = Pieces(apart=True)

    pieces.backward(losses, views, nullcontext, [weight])
    asked.clear()
    pieces.backward(losses, views, nullcontext, [weight])

    assert asked == [2, 2, 2, 2]


def test_a_method_that_compares_images_is_never_divided() -> None:
    weight = torch.zeros(3, requires_grad=True)
    views = [torch.ones(8, 3), torch.ones(8, 3)]

    with pytest.raises(torch.OutOfMemoryError):
        Pieces(apart=False).backward(losses_with(weight, 4, []), views, nullcontext, [weight])


def test_an_image_that_does_not_fit_alone_is_an_error() -> None:
    weight = torch.zeros(3, requires_grad=True)
    views = [torch.ones(8, 3), torch.ones(8, 3)]

    with pytest.raises(torch.OutOfMemoryError):
        Pieces(apart=True).backward(losses_with(weight, 0, []), views, nullcontext, [weight])

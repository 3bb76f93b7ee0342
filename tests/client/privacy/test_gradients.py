"""Clipped gradients of patients: the reference against a plain loop, the faster engine against it.

Shapes: B images, C channels, Y X voxels.
"""

from collections.abc import Sequence

import pytest
import torch
from private_steps import PAIRS, SLOW, flat, private_run
from tiny_runs import noise
from torch import Tensor, nn

from confrere_client.privacy.ghost import ghost, suits
from confrere_client.privacy.gradients import Drawn, Engine, Views, padded, trained, vmapped
from confrere_common.method import Method, imagined_views
from confrere_common.model import build_model

# A slow rule of torch.func's, not a wrong one.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")

RAGGED = (2, 1, 3, 1)
LIMIT = 1e-6


def vary(images_BCYX: Tensor, generator: torch.Generator) -> Tensor:
    shift = torch.randn(images_BCYX.shape, generator=generator, dtype=torch.float64)
    return images_BCYX.double() / 64 - 2 + 0.3 * shift


def model_of(pair: tuple[str, str]) -> Method:
    return build_model(private_run(*pair), seed=0).double()


def views_of(model: Method, counts: Sequence[int], seed: int = 0) -> list[Views]:
    generator = torch.Generator().manual_seed(seed)
    stored = noise(sum(counts), seed).images_BCYX.split(list(counts))
    return [imagined_views(model, images_BCYX, vary, generator) for images_BCYX in stored]


def looped(model: Method, patients: Sequence[Views], clip_norm: float) -> dict[str, Tensor]:
    """One patient after the other, one backward pass each."""
    own = trained(model)
    sums = {name: torch.zeros_like(parameter) for name, parameter in own.items()}
    for views in patients:
        found = torch.autograd.grad(model.losses(*views).mean(), list(own.values()))
        length = torch.cat([one.flatten() for one in found]).norm()
        for name, one in zip(own, found, strict=True):
            sums[name] += one * min(1.0, clip_norm * (1 - 2.0**-12) / float(length))
    return sums


@pytest.fixture(params=PAIRS, ids="-".join)
def model(request: pytest.FixtureRequest) -> Method:
    return model_of(request.param)


@pytest.fixture
def engine(request: pytest.FixtureRequest, model: Method) -> Engine:
    found: Engine = request.param
    if found is ghost and type(model).__name__.lower() in SLOW:
        return vmapped  # as ``choose_engine`` does: see the test of what suits
    return found


@pytest.mark.parametrize("engine", [vmapped, ghost], indirect=True)
@pytest.mark.parametrize("clip_norm", [0.1, 1e6])
def test_patients_of_any_number_of_images_are_clipped_as_in_a_plain_loop(
    model: Method, engine: Engine, clip_norm: float
) -> None:
    """``Engine``: "Guarantee: no patient, whatever the images are, moves the sum by more than the
    clip norm."
    """
    patients = views_of(model, RAGGED)

    found = flat(engine(model, padded(patients), clip_norm))

    due = flat(looped(model, patients, clip_norm))
    assert float((found - due).norm() / due.norm()) < LIMIT


def test_a_network_is_found_to_suit_the_faster_engine(model: Method) -> None:
    slow = type(model).__name__.lower() in SLOW

    assert suits(model, padded(views_of(model, (1, 2, 3)))) != slow


@pytest.mark.parametrize("engine", [vmapped, ghost], indirect=True)
@pytest.mark.parametrize("spoil", [torch.nan, torch.inf, 1e300])
def test_a_patient_whose_gradient_is_no_number_counts_as_nobody(
    model: Method, engine: Engine, spoil: float
) -> None:
    patients = views_of(model, RAGGED)
    broken = tuple(
        view.index_fill(0, torch.tensor([0]), spoil) if view.dtype == torch.float64 else view
        for view in patients[2]
    )

    found = flat(engine(model, padded([*patients[:2], broken, patients[3]]), 0.1))

    due = flat(engine(model, padded([*patients[:2], patients[3]]), 0.1))
    assert float((found - due).norm()) <= 0.1 * (1 + LIMIT)
    assert found.isfinite().all()
    if spoil != 1e300:  # so bright an image may still have a gradient, which is clipped
        assert float((found - due).norm() / due.norm()) < LIMIT


@pytest.mark.parametrize("engine", [vmapped, ghost], indirect=True)
def test_a_forward_that_nobody_goes_back_through_leaves_no_norm_behind(
    model: Method, engine: Engine
) -> None:
    """Opacus' fast gradients then clip by the norms of that forward, and say nothing."""
    patients = views_of(model, RAGGED)

    for other in views_of(model, (1, 2), seed=9):
        model.losses(*other)  # with gradients on, as in a check or a figure
    found = flat(engine(model, padded(patients), 0.1))

    due = flat(looped(model, patients, 0.1))
    assert float((found - due).norm() / due.norm()) < LIMIT


class Sampled(nn.Module):
    """A head that lays the rows of its two views out image by image, not view by view."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, rows: Tensor) -> Tensor:
        half = len(rows) // 2
        order = torch.arange(2 * half).view(2, half).T.flatten()
        out: Tensor = self.inner(rows[order])
        return out[order.argsort()]


def test_rows_in_another_order_are_found_out_though_their_sum_is_right() -> None:
    model = model_of(("byol", "vit"))
    model.predictor = Sampled(model.predictor)  # type: ignore[assignment]

    assert not suits(model, padded(views_of(model, (1, 2, 3))))


class Bare(nn.Module):
    """A layer whose weight is used outside of it."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, rows: Tensor) -> Tensor:
        return rows @ self.inner.weight.T


def test_a_weight_used_outside_its_layer_is_found_out() -> None:
    model = model_of(("simsiam", "vit"))
    last = model.predictor[-1]  # type: ignore[index]
    model.predictor[-1] = Bare(last)  # type: ignore[index, operator]

    assert not suits(model, padded(views_of(model, (1, 2, 3))))


def test_padding_repeats_an_image_and_gives_it_no_weight() -> None:
    drawn = padded([(torch.ones(1, 3),), (torch.full((2, 3), 2.0),)])

    assert isinstance(drawn, Drawn)
    assert drawn.weights_PK.tolist() == [[1.0, 0.0], [0.5, 0.5]]
    assert drawn.views[0][0].tolist() == [[1.0] * 3] * 2


def test_the_faster_engine_leaves_the_model_as_it_found_it() -> None:
    model = model_of(("byol", "resnet"))
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}

    ghost(model, padded(views_of(model, RAGGED)), 1.0)

    after = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert before == after
    assert not any(layer._forward_hooks for layer in model.modules())

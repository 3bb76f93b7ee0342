"""VICReg: its three terms, against numpy and against extremes."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from confrere_common.encoder import build_encoder
from confrere_common.family import Named
from confrere_common.methods.vicreg import Vicreg, lack_of_spread, likeness


def build(**knobs: float) -> Vicreg:
    torch.manual_seed(0)
    encoder = build_encoder(
        Named(name="resnet", knobs={"width": 8, "groups": 4}), channels=1, size=(16, 16)
    )
    return Vicreg(Vicreg.Config(expander=6, **knobs), encoder)  # type: ignore[arg-type]


def by_numpy(one: np.ndarray, two: np.ndarray) -> float:
    """The paper's algorithm 1."""
    width = one.shape[1]
    total = 25 * np.mean((one - two) ** 2)
    for features in (one, two):
        spread = np.sqrt(features.var(axis=0, ddof=1) + 1e-4)
        total += 25 * np.mean(np.maximum(0, 1 - spread))
        covariance = np.cov(features, rowvar=False)
        total += (covariance**2).sum() / width - (np.diag(covariance) ** 2).sum() / width
    return float(total)


def test_the_mean_over_images_is_the_papers_loss() -> None:
    vicreg = build()
    one, two = torch.randn(5, 1, 16, 16), torch.randn(5, 1, 16, 16)

    losses_B = vicreg.losses(one, two)

    features = [vicreg.expander(vicreg.encoder(view)).detach().numpy() for view in (one, two)]
    expected = torch.tensor(by_numpy(*features))
    torch.testing.assert_close(losses_B.mean(), expected, check_dtype=False, atol=1e-4, rtol=1e-4)


def test_losses_differ_by_each_images_own_disagreement() -> None:
    vicreg = build(variance=0, covariance=0)
    one = torch.randn(3, 1, 16, 16)
    two = torch.cat([one[:1], torch.randn(2, 1, 16, 16)])

    losses_B = vicreg.losses(one, two)

    torch.testing.assert_close(losses_B[0], torch.tensor(0.0), atol=1e-6, rtol=0)
    assert (losses_B[1:] > 0).all()


def test_constant_features_lack_all_spread_but_the_floors() -> None:
    assert float(lack_of_spread(torch.ones(8, 4))) == np.float32(1 - 1e-2)


def test_features_that_spread_enough_lack_nothing() -> None:
    assert float(lack_of_spread(10 * torch.randn(64, 4))) == 0.0


@settings(deadline=None, max_examples=10)
@given(count=st.integers(2, 9), width=st.integers(2, 5), seed=st.integers(0, 99))
def test_likeness_is_the_off_diagonal_of_the_covariance(count: int, width: int, seed: int) -> None:
    features = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))

    covariance = np.cov(features.numpy(), rowvar=False)
    off_diagonal = covariance - np.diag(np.diag(covariance))
    expected = (off_diagonal**2).sum() / width
    torch.testing.assert_close(float(likeness(features)), float(expected), atol=1e-4, rtol=1e-3)


def test_one_image_has_neither_spread_nor_likeness() -> None:
    features = torch.randn(1, 4, requires_grad=True)

    (lack_of_spread(features) + likeness(features)).backward()

    assert likeness(features).item() == 0.0
    assert features.grad is not None
    torch.testing.assert_close(features.grad, torch.zeros(1, 4))

"""SimSiam: each view foretells the other, which stands still meanwhile."""

import pytest
import torch
from torch.nn.functional import normalize

from confrere_common.encoder import build_encoder
from confrere_common.family import Named
from confrere_common.methods.simsiam import Simsiam


def build() -> Simsiam:
    torch.manual_seed(0)
    encoder = build_encoder(
        Named(name="resnet", knobs={"width": 8, "groups": 4}), channels=1, size=(16, 16)
    )
    return Simsiam(Simsiam.Config(hidden=32, out=16, bottleneck=4), encoder)


def test_loss_is_twice_the_papers_plus_2() -> None:
    simsiam = build()
    one, two = torch.randn(3, 1, 16, 16), torch.randn(3, 1, 16, 16)

    losses_B = simsiam.losses(one, two)

    z_one, z_two = (simsiam.projector(simsiam.encoder(view)) for view in (one, two))
    p_one, p_two = simsiam.predictor(z_one), simsiam.predictor(z_two)
    cosine_one = (normalize(p_one) * normalize(z_two)).sum(1)
    cosine_two = (normalize(p_two) * normalize(z_one)).sum(1)
    paper_B = -0.5 * cosine_one - 0.5 * cosine_two
    torch.testing.assert_close(losses_B, 2 * paper_B + 2)


@pytest.mark.parametrize(("sign", "loss"), [(1.0, 0.0), (-1.0, 4.0)])
def test_loss_is_0_for_exact_foresight_and_4_for_its_opposite(sign: float, loss: float) -> None:
    simsiam = build()
    simsiam.predictor = torch.nn.Sequential(torch.nn.Linear(16, 16, bias=False))
    simsiam.predictor[0].weight.data = sign * torch.eye(16)
    view = torch.randn(3, 1, 16, 16)

    torch.testing.assert_close(simsiam.losses(view, view), torch.full((3,), loss))


def test_what_is_foretold_gets_no_gradient() -> None:
    simsiam = build()
    torch.nn.init.zeros_(simsiam.predictor[0].weight)
    torch.nn.init.ones_(simsiam.predictor[1].offset)

    simsiam.losses(torch.randn(2, 1, 16, 16), torch.randn(2, 1, 16, 16)).sum().backward()

    gradients = [value.grad for value in simsiam.encoder.parameters()]
    assert all(grad is None or not grad.any() for grad in gradients)


def test_the_predictor_is_narrowest_in_the_middle() -> None:
    widths = [layer.out_features for layer in build().predictor if hasattr(layer, "out_features")]

    assert widths == [4, 16]

"""The plain step adds."""

import torch

from confrere_common.weights import subtract
from confrere_server.steps.plain import Config, plain


def test_a_single_site_gets_its_own_model_back() -> None:
    given = {"w": torch.randn(1000, generator=torch.Generator().manual_seed(0))}
    trained = {"w": given["w"] + 0.01 * torch.randn(1000)}

    moved, state = plain(given, subtract(trained, given), {}, Config())

    torch.testing.assert_close(moved["w"], trained["w"], rtol=0, atol=1e-6)
    assert state == {}


def test_the_learning_rate_scales_the_update() -> None:
    moved, _ = plain({"w": torch.tensor(1.0)}, {"w": torch.tensor(4.0)}, {}, Config(lr=0.5))

    assert moved["w"].item() == 3

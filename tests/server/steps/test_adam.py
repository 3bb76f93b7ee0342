"""FedAdam follows Algorithm 2 of Reddi et al., written again in numpy and float64."""

import numpy as np
import torch

from confrere_server.steps.adam import Config, adam


def test_rounds_follow_the_paper() -> None:
    config = Config(lr=0.03, beta1=0.8, beta2=0.95, tau=1e-2)
    generator = np.random.default_rng(0)
    expected = generator.normal(size=20)
    weights, state = {"w": torch.tensor(expected, dtype=torch.float32)}, {}
    m, v = np.zeros(20), np.full(20, 1e-4)

    for delta in generator.normal(scale=0.05, size=(6, 20)):
        weights, state = adam(weights, {"w": torch.tensor(delta)}, state, config)
        m = 0.8 * m + 0.2 * delta
        v = 0.95 * v + 0.05 * delta**2
        expected = expected + 0.03 * m / (np.sqrt(v) + 1e-2)

    np.testing.assert_allclose(weights["w"].numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state["v.w"].numpy(), v, rtol=1e-5)


def test_a_steady_update_moves_a_weight_by_about_the_learning_rate() -> None:
    weights, state = {"w": torch.zeros(1)}, {}

    for _ in range(600):
        before = weights
        weights, state = adam(weights, {"w": torch.tensor([0.5])}, state, Config())

    assert 0.0095 < (weights["w"] - before["w"]).item() < 0.0105

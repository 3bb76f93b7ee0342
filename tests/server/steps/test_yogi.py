"""FedYogi follows Algorithm 2 of Reddi et al., written again in numpy and float64."""

import numpy as np
import torch

from confrere_server.steps import adam as adam_file
from confrere_server.steps.yogi import Config, yogi


def test_rounds_follow_the_paper() -> None:
    config = Config(lr=0.03, beta1=0.8, beta2=0.95, tau=1e-2)
    generator = np.random.default_rng(0)
    expected = generator.normal(size=20)
    weights, state = {"w": torch.tensor(expected, dtype=torch.float32)}, {}
    m, v = np.zeros(20), np.full(20, 1e-4)

    for delta in generator.normal(scale=0.05, size=(6, 20)):
        weights, state = yogi(weights, {"w": torch.tensor(delta)}, state, config)
        m = 0.8 * m + 0.2 * delta
        v = v - 0.05 * delta**2 * np.sign(v - delta**2)
        expected = expected + 0.03 * m / (np.sqrt(v) + 1e-2)

    np.testing.assert_allclose(weights["w"].numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state["v.w"].numpy(), v, rtol=1e-5)


def test_it_forgets_one_huge_update_slower_than_adam() -> None:
    knobs = {"adam": adam_file.Config(), "yogi": Config()}
    states = {}
    for name, step in (("adam", adam_file.adam), ("yogi", yogi)):
        weights, state = {"w": torch.zeros(1)}, {}
        for delta in (100.0, *[0.001] * 50):
            weights, state = step(weights, {"w": torch.tensor([delta])}, state, knobs[name])
        states[name] = state["v.w"].item()

    assert states["yogi"] > states["adam"]

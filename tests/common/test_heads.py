"""Perceptrons that see each image alone."""

import torch

from confrere_common.heads import Learned, in_one_pass, perceptron


def test_has_the_widths_asked_for() -> None:
    network = perceptron((6, 5, 4, 3))

    linear = [layer for layer in network if isinstance(layer, torch.nn.Linear)]

    assert [(layer.in_features, layer.out_features) for layer in linear] == [(6, 5), (5, 4), (4, 3)]
    assert network(torch.randn(2, 6)).shape == (2, 3)


def test_a_normalised_output_has_mean_0_and_variance_1_for_each_image() -> None:
    out_BF = perceptron((6, 16, 64), norm_last=True)(torch.randn(3, 6))

    torch.testing.assert_close(out_BF.mean(1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(out_BF.var(1, unbiased=False), torch.ones(3), atol=1e-3, rtol=0)


def test_one_pass_over_all_views_equals_a_pass_for_each() -> None:
    network = perceptron((6, 8, 4), norm_last=True)
    one, two = torch.randn(3, 6), torch.randn(3, 6)

    together = in_one_pass(network, one, two)

    torch.testing.assert_close(together, (network(one), network(two)))


def test_learned_values_take_the_shape_and_type_of_what_they_replace() -> None:
    learned = Learned(3, 1, 1)

    shown = learned(torch.zeros(2, 3, 4, 5, dtype=torch.bfloat16))

    assert shown.shape == (2, 3, 4, 5)
    assert shown.dtype == torch.bfloat16
    assert torch.equal(shown[0, :, 0, 0], shown[1, :, 3, 4])

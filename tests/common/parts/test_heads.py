"""Perceptrons that see each image alone."""

import pytest
import torch

from confrere_common.encoder import build_encoder
from confrere_common.family import Named
from confrere_common.parts.heads import Learned, Scaled, calibrate, in_one_pass, noise, perceptron


def test_has_the_widths_asked_for() -> None:
    network = perceptron((6, 5, 4, 3))

    linear = [layer for layer in network if isinstance(layer, torch.nn.Linear)]

    assert [(layer.in_features, layer.out_features) for layer in linear] == [(6, 5), (5, 4), (4, 3)]
    assert network(torch.randn(2, 6)).shape == (2, 3)


def test_no_image_changes_another() -> None:
    network = perceptron((6, 16, 4), norm_last=True)
    features_BF = torch.randn(3, 6)

    alone_BF = torch.cat([network(one[None]) for one in features_BF])

    torch.testing.assert_close(network(features_BF), alone_BF)


def test_a_calibrated_layer_gives_mean_0_and_variance_1_over_its_images() -> None:
    scaled = Scaled(5)
    features_BF = 3 * torch.randn(64, 5) + torch.arange(5)

    scaled.calibrate(features_BF)

    out_BF = scaled(features_BF)
    torch.testing.assert_close(out_BF.mean(0), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(out_BF.std(0), torch.ones(5), atol=1e-2, rtol=0)


@pytest.mark.parametrize("size", [(16, 16), (8, 12, 16)])
def test_heads_are_calibrated_one_after_the_other_over_noise(size: tuple[int, ...]) -> None:
    resnet = Named(name="resnet", knobs={"width": 8, "groups": 4})
    encoder = build_encoder(resnet, channels=1, size=size)
    first = perceptron((encoder.width, 16, 8), norm=Scaled, norm_last=True)
    second = perceptron((8, 16, 8), norm=Scaled, norm_last=True)

    calibrate(encoder, first, second)

    features_BF = encoder(noise(1, size)).detach()
    for head in (first, second):
        features_BF = head(features_BF).detach()
        width = features_BF.shape[1]
        torch.testing.assert_close(features_BF.mean(0), torch.zeros(width), atol=1e-4, rtol=0)
        torch.testing.assert_close(features_BF.std(0), torch.ones(width), atol=0.1, rtol=0)


def test_calibration_takes_nothing_from_the_global_generator() -> None:
    encoder = build_encoder(Named(name="vit", knobs={"dim": 8}), channels=1, size=(16, 16))
    head = perceptron((8, 4, 4), norm=Scaled)
    before = torch.get_rng_state()

    calibrate(encoder, head)

    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("size", "count"), [((32, 32), 64), ((224, 224), 20), ((7, 33), 64), ((64, 64, 64), 16)]
)
def test_noise_is_few_images_of_about_unit_strength_always_the_same(
    size: tuple[int, ...], count: int
) -> None:
    images = noise(3 if len(size) == 2 else 1, size)

    assert images.shape[0] == count
    assert images.shape[2:] == size
    assert 0.5 < float(images.std()) < 1.2
    assert torch.equal(images, noise(images.shape[1], size))


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

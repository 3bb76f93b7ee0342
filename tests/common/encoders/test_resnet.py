"""The residual network is the known one, but for its normalisation and its working in place."""

import warnings
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from confrere_common.encoder import ENCODERS
from confrere_common.encoders.resnet import Resnet
from confrere_common.errors import ConfigError
from confrere_common.family import Named

LAYERS = {
    18: ("basic", [2, 2, 2, 2]),
    34: ("basic", [3, 4, 6, 3]),
    50: ("bottleneck", [3, 4, 6, 3]),
}


@pytest.mark.parametrize("stem", ["small", "large"])
@pytest.mark.parametrize("size", [(40, 33), (16, 24, 17)], ids=["2-D", "3-D"])
@pytest.mark.parametrize("depth", [18, 34, 50])
def test_sees_what_monai_s_network_sees(depth: int, size: tuple[int, ...], stem: str) -> None:
    ours = Resnet(Resnet.Config(depth=depth, width=4, groups=2, stem=stem), channels=3, size=size)
    _shake(ours)
    theirs = monai_resnet(depth, size, small=stem == "small")
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    images_BCZYX = torch.randn(2, 3, *size)

    features_BF = ours(images_BCZYX)

    torch.testing.assert_close(features_BF, theirs(images_BCZYX), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("depth", "count"), [(18, 11_176_512), (34, 21_284_672), (50, 23_508_032)])
def test_has_as_many_parameters_as_the_published_network(depth: int, count: int) -> None:
    with torch.device("meta"):
        network = Resnet(Resnet.Config(depth=depth), channels=3, size=(224, 224))

    assert sum(weight.numel() for weight in network.parameters()) == count


@pytest.mark.parametrize(("depth", "times"), [(18, 8), (34, 8), (50, 32)])
def test_features_are_a_multiple_of_the_width(depth: int, times: int) -> None:
    network = Resnet(Resnet.Config(depth=depth, width=8), channels=1, size=(28, 28))

    assert network.width == 8 * times
    assert network(torch.randn(2, 1, 28, 28)).shape == (2, 8 * times)


@pytest.mark.parametrize(
    ("size", "finest"), [((28, 28), 1), ((63, 200), 1), ((64, 64), 4), ((16, 16, 16), 1)]
)
def test_large_images_are_shrunk_at_once_if_nothing_is_said(
    size: tuple[int, ...], finest: int
) -> None:
    network = Resnet(Resnet.Config(width=8), channels=1, size=size)

    assert network.map_strides == (finest, 2 * finest, 4 * finest, 8 * finest)


def test_nothing_works_in_place() -> None:
    network = Resnet(Resnet.Config(width=8), channels=1, size=(64, 64))

    assert not any(getattr(layer, "inplace", False) for layer in network.modules())


def test_contrast_of_a_whole_image_weighs_little_as_groups_are_normalised() -> None:
    network = Resnet(Resnet.Config(width=16, stem="small"), channels=1, size=(32, 32))
    images_BCYX = torch.randn(2, 1, 32, 32)

    doubled_BF = network(2 * images_BCYX)

    torch.testing.assert_close(doubled_BF, network(images_BCYX), rtol=1e-2, atol=1e-2)


def test_says_which_number_of_groups_would_do() -> None:
    with pytest.raises(ConfigError) as fault:
        ENCODERS.configure(Named(name="resnet", knobs={"width": 12}))

    assert fault.value.faults == ("groups is 8: must divide width, which is 12; 4 would.",)


@pytest.mark.parametrize("knobs", [{"depth": 19}, {"width": 0}, {"groups": 3}, {"stem": "tall"}])
def test_refuses_knobs_that_make_no_network(knobs: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Resnet.Config(**knobs)


def monai_resnet(depth: int, size: tuple[int, ...], *, small: bool) -> nn.Module:
    """Return MONAI's network with groups; it forgets to hand its `norm` on to the stages."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.networks.nets.resnet import ResNet

        block, layers = LAYERS[depth]
        network: nn.Module = ResNet(
            block,
            layers,
            [4, 8, 16, 32],
            spatial_dims=len(size),
            n_input_channels=3,
            conv1_t_size=3 if small else 7,
            conv1_t_stride=1 if small else 2,
            no_max_pool=small,
            feed_forward=False,
            bias_downsample=False,
            norm=("group", {"num_groups": 2}),
        )
    _normalise_groups(network)
    return network


def _normalise_groups(network: nn.Module) -> None:
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d):
                setattr(parent, name, nn.GroupNorm(2, layer.num_features))


def _shake(network: nn.Module) -> None:
    """Move every weight, for at the start all normalisations are alike."""
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.1 * torch.randn_like(weight)

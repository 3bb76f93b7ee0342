"""The windowed transformer is the known one, on any size of image.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D).
"""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from confrere_common.encoder import ENCODERS
from confrere_common.encoders.swin import Swin
from confrere_common.errors import ConfigError
from confrere_common.family import Named


def build(size: tuple[int, ...], channels: int = 1, **knobs: Any) -> Swin:
    torch.manual_seed(0)
    config = Swin.Config(**{"dim": 8, "depths": (1, 2), "window": 4, "patch": 2, **knobs})
    return Swin(config, channels=channels, size=size)


@pytest.mark.parametrize("size", [(32, 64), (32, 16, 32)], ids=["2-D", "3-D"])
def test_sees_what_monai_s_network_sees_where_windows_fill_the_grid(size: tuple[int, ...]) -> None:
    ours = build(size, channels=2)
    shaken(ours)
    theirs = monai_swin(ours)
    images_BCZYX = torch.randn(2, 2, *size)

    maps = ours.maps(images_BCZYX)

    for one, two in zip(maps, theirs(images_BCZYX), strict=False):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


def test_has_as_many_parameters_as_monai_s_at_its_defaults() -> None:
    with torch.device("meta"):
        ours = Swin(Swin.Config(), channels=1, size=(96, 96, 96))

    theirs = monai(dim=24, depths=(2, 2, 2, 2), heads=(3, 6, 12, 24), window=7, axes=3, channels=1)
    assert count(ours) == count(theirs)
    assert ours.map_strides == (2, 4, 8, 16, 32)
    assert ours.width == 384


@pytest.mark.parametrize(
    ("size", "strides"),
    [
        ((16, 16, 16), (2, 4, 8, 16)),
        ((16, 16), (2, 4, 8, 16)),
        ((32, 32), (2, 4, 8, 16, 32)),
        ((96, 17), (2, 4, 8, 16, 32)),
        ((224, 224), (4, 8, 16, 32, 64)),
        ((9, 20, 17), (2, 4, 8, 16, 32)),
    ],
)
def test_scales_at_which_an_image_is_one_cell_are_left_out(
    size: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    swin = Swin(Swin.Config(dim=8, depths=(1, 1, 1, 1)), channels=1, size=size)

    maps = swin.maps(torch.randn(1, 1, *size))

    assert swin.map_strides == strides
    for found, stride in zip(maps, strides, strict=True):
        assert found.shape[2:] == tuple(-(-side // stride) for side in size)


@pytest.mark.parametrize("size", [(22, 30), (10, 22, 14)], ids=["2-D", "3-D"])
def test_what_fills_up_a_window_is_not_seen(size: tuple[int, ...]) -> None:
    swin = build(size, depths=(2, 1))
    images_BCZYX = torch.randn(1, 1, *size)
    first = swin.stages[0][1]
    cells_BZYXD = swin.project(images_BCZYX).movedim(1, -1)

    before = first(cells_BZYXD)
    nn.init.constant_(first.query_key_value.bias[8:16].data, 0)  # keys and values of zeros
    cut = first.windows.cut(torch.ones(1, *cells_BZYXD.shape[1:-1], 1))[0, :, :, 0]
    weights = first.unseen_W1nn[:, 0]

    assert before.isfinite().all()
    seen = weights == 0
    real_rows = cut == 1
    assert not (seen & real_rows[:, :, None] & ~real_rows[:, None, :]).any()


def test_shifted_windows_do_not_join_opposite_edges() -> None:
    swin = build((32, 32), depths=(2, 1))
    shaken(swin)
    shifted = swin.stages[0][1]
    cells_BYXD = torch.randn(1, 16, 16, 8)
    moved = cells_BYXD.clone()
    moved[:, -1, -1] = torch.randn(8)

    changed = (shifted(moved) - shifted(cells_BYXD)).abs().amax(-1)[0] > 0

    assert changed[-2:, -2:].all()
    assert changed.sum() == 4


def test_cutting_windows_and_joining_them_changes_nothing() -> None:
    for size in ((22, 30), (10, 22, 14)):
        block = build(size, depths=(2, 1)).stages[0][1]
        cells = torch.randn(2, *(side // 2 for side in size), 3)

        assert torch.equal(block.windows.joined(block.windows.cut(cells)), cells)


def test_parameters_fit_images_of_every_size() -> None:
    small, large = (build(size, depths=(1, 1)).state_dict() for size in ((16, 16), (40, 64)))

    assert {name: value.shape for name, value in small.items()} == {
        name: value.shape for name, value in large.items()
    }


def test_a_window_cut_by_a_small_grid_keeps_each_offset_s_bias() -> None:
    small, large = build((8, 64)).stages[0][0].bias, build((64, 64)).stages[0][0].bias
    scores = torch.zeros(1, 1, 1, 16, 16)
    small.load_state_dict(large.state_dict())

    assert torch.equal(small(scores), large(scores))


def test_says_how_large_images_must_be() -> None:
    with pytest.raises(ConfigError, match="images of 4 x 4 voxels are 2 x 2 patches of 2, too few"):
        build((4, 4))


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"heads": 5}, "24 features cannot be shared evenly"),
        ({"depths": [2]}, "depths is"),
        ({"window": 1}, "window is 1"),
    ],
)
def test_says_which_knob_is_wrong(knobs: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ENCODERS.configure(Named(name="swin", knobs=knobs))


def shaken(network: nn.Module) -> None:
    """Move norms and biases away from where they start, so that each counts."""
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))


def count(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def rearrange(images: Tensor, pattern: str) -> Tensor:
    """What MONAI asks of einops, which it does not bring."""
    return images.movedim(1, -1) if pattern.endswith(" c") else images.movedim(-1, 1)


def monai(**shape: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.networks.nets import swin_unetr

    swin_unetr.rearrange = rearrange
    axes = shape["axes"]
    found: nn.Module = swin_unetr.SwinTransformer(
        in_chans=shape["channels"],
        embed_dim=shape["dim"],
        window_size=(shape["window"],) * axes,
        patch_size=(2,) * axes,
        depths=shape["depths"],
        num_heads=shape["heads"],
        spatial_dims=axes,
        downsample="mergingv2",
    )
    return found


def monai_swin(ours: Swin) -> Any:
    """Return MONAI's network of two stages with our weights, and the three maps it then has."""
    axes = len(ours.size)
    theirs = monai(dim=8, depths=(1, 2, 1, 1), heads=(1, 2, 4, 8), window=4, axes=axes, channels=2)
    missing, unexpected = theirs.load_state_dict(ours.monai_state(), strict=False)
    assert not unexpected
    assert all("layers3" in name or "layers4" in name or "index" in name for name in missing)

    def run(images_BCZYX: Tensor) -> list[Tensor]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: list[Tensor] = theirs(images_BCZYX)
        return found[:3]

    return run

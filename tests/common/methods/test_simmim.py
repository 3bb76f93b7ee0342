"""Masked images with any encoder: painted blocks are not seen, and they alone count."""

import pytest
import torch
from torch import Tensor

from confrere_common.encoder import build_encoder
from confrere_common.errors import ConfigError
from confrere_common.family import Named
from confrere_common.methods.simmim import Simmim

KNOBS = {
    "resnet": {"width": 8, "groups": 4},
    "vit": {"dim": 24, "depth": 3, "heads": 2, "patch": 8},
}


def build(
    kind: str = "resnet", size: tuple[int, ...] = (32, 32), channels: int = 1, **knobs: object
) -> Simmim:
    torch.manual_seed(0)
    encoder = build_encoder(Named(name=kind, knobs=KNOBS[kind]), channels=channels, size=size)
    return Simmim(Simmim.Config(**{"head": 8, **knobs}), encoder)  # type: ignore[arg-type]


def views_of(simmim: Simmim, count: int = 3) -> tuple[Tensor, Tensor]:
    images = torch.randn(count, simmim.encoder.channels, *simmim.encoder.size)
    images_BCZYX, hidden_B1ZYX = simmim.views(
        images, lambda given, _: given, torch.Generator().manual_seed(0)
    )
    return images_BCZYX, hidden_B1ZYX


@pytest.mark.parametrize(("ratio", "blocks"), [(0.6, 10), (0.25, 4), (0.99, 15), (0.001, 1)])
def test_hides_the_asked_part_in_whole_blocks(ratio: float, blocks: int) -> None:
    _, hidden_B1YX = views_of(build(block=8, ratio=ratio))

    by_block = hidden_B1YX.reshape(3, 4, 8, 4, 8).transpose(2, 3).flatten(3).float().mean(3)

    assert set(by_block.unique().tolist()) == {0.0, 1.0}
    assert by_block.flatten(1).sum(1).tolist() == [blocks] * 3


@pytest.mark.parametrize("decoder", ["light", "unet"])
@pytest.mark.parametrize("kind", KNOBS)
def test_hidden_voxels_are_not_seen(kind: str, decoder: str) -> None:
    simmim = build(kind, decoder=decoder, width=4)
    images, hidden = views_of(simmim)

    before = simmim.repaint(images, hidden)
    after = simmim.repaint(torch.where(hidden, torch.randn_like(images), images), hidden)

    assert torch.equal(before, after)


def test_the_way_up_of_a_unet_learns_in_place_of_the_light_head() -> None:
    simmim = build(decoder="unet", width=4)

    simmim.losses(*views_of(simmim)).mean().backward()

    assert not hasattr(simmim, "head")
    assert all(p.grad is not None and p.grad.any() for p in simmim.decoder.parameters())


@pytest.mark.parametrize("channels", [1, 3])
def test_loss_is_the_mean_absolute_error_over_hidden_voxels(channels: int) -> None:
    simmim = build(channels=channels)
    images, hidden = views_of(simmim)
    guesses = simmim.repaint(images, hidden)

    losses_B = simmim.losses(images, hidden)

    for image, mask, guess, loss in zip(images, hidden, guesses, losses_B, strict=True):
        errors = (image - guess).abs()[:, mask[0]]
        torch.testing.assert_close(loss, errors.mean())


def test_exact_repainting_has_no_loss() -> None:
    simmim = build()
    _, hidden = views_of(simmim)
    torch.nn.init.zeros_(simmim.head.lay_out.weight)
    torch.nn.init.constant_(simmim.head.lay_out.bias, 0.5)

    assert simmim.losses(torch.full((3, 1, 32, 32), 0.5), hidden).tolist() == [0.0] * 3


@pytest.mark.parametrize(
    ("kind", "size"),
    [("resnet", (64, 64)), ("resnet", (30, 41)), ("resnet", (9, 20, 17)), ("vit", (16, 24, 16))],
)
def test_repaints_any_size_that_the_encoder_takes(kind: str, size: tuple[int, ...]) -> None:
    simmim = build(kind, size)
    images, hidden = views_of(simmim)

    assert simmim.repaint(images, hidden).shape == images.shape
    assert hidden.shape == (3, 1, *size)


def test_a_cell_of_the_head_lands_where_its_map_saw_it() -> None:
    simmim = build("vit", block=8)
    tokens = torch.zeros(1, 24, 4, 4)
    tokens[..., 1, 2] = 1.0
    torch.nn.init.zeros_(simmim.head.lay_out.bias)

    painted = simmim.head((tokens, tokens, tokens))[0, 0]

    elsewhere = torch.ones(32, 32, dtype=torch.bool)
    elsewhere[8:16, 16:24] = False
    assert painted[8:16, 16:24].all()
    assert not painted[elsewhere].any()


@pytest.mark.parametrize(
    ("kind", "size", "block", "joined"),
    [
        ("vit", (32, 32), 8, 0),
        ("resnet", (64, 64), 32, 0),
        ("resnet", (64, 64), 8, 3),
        ("resnet", (64, 64), 2, 4),
    ],
)
def test_joins_maps_only_where_the_coarsest_is_coarser_than_a_block(
    kind: str, size: tuple[int, ...], block: int, joined: int
) -> None:
    assert len(build(kind, size, block=block).head.joins) == joined


@pytest.mark.parametrize("size", [(16, 16), (8, 16)])
def test_refuses_a_block_as_large_as_the_image(size: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="a block of 16 voxels covers images of"):
        build(size=size, block=16)

"""Masked autoencoders: only shown patches are encoded, only hidden ones count."""

import pytest
import torch
from torch import Tensor

from confrere_common.encoder import build_encoder
from confrere_common.errors import ConfigError
from confrere_common.family import Named
from confrere_common.methods.mae import Mae

SIZE = (32, 32)


def build(size: tuple[int, ...] = SIZE, channels: int = 1, **knobs: object) -> Mae:
    torch.manual_seed(0)
    vit = Named(name="vit", knobs={"dim": 24, "depth": 2, "heads": 2, "patch": 8})
    small = {"decoder_dim": 16, "decoder_heads": 2, "decoder_depth": 1}
    return Mae(
        Mae.Config(**{**small, **knobs}),  # type: ignore[arg-type]
        build_encoder(vit, channels=channels, size=size),
    )


def views_of(mae: Mae, count: int = 3) -> tuple[Tensor, Tensor]:
    images = torch.randn(count, mae.encoder.channels, *mae.encoder.size)
    images_BCZYX, hidden_BN = mae.views(
        images, lambda given, _: given, torch.Generator().manual_seed(0)
    )
    return images_BCZYX, hidden_BN


def change(images: Tensor, patch: int) -> Tensor:
    """The images with noise in one of the 4 x 4 patches of 8 x 8 voxels."""
    row, column = divmod(patch, 4)
    changed = images.clone()
    changed[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 1 + torch.randn(8, 8)
    return changed


@pytest.mark.parametrize(("ratio", "hidden"), [(0.75, 12), (0.5, 8), (0.99, 15), (0.001, 1)])
def test_hides_the_asked_part_of_the_patches_of_every_image(ratio: float, hidden: int) -> None:
    _, hidden_BN = views_of(build(ratio=ratio))

    assert hidden_BN.sum(1).tolist() == [hidden] * 3


def test_hidden_patches_never_reach_the_encoder() -> None:
    mae = build()
    images, hidden_BN = views_of(mae, count=1)
    hidden_patch = int(hidden_BN[0].nonzero()[0])

    before = mae.paint(images, hidden_BN)
    after = mae.paint(change(images, hidden_patch), hidden_BN)

    assert torch.equal(before, after)


def test_the_encoder_works_on_as_many_tokens_as_are_shown() -> None:
    mae = build(ratio=0.75)
    seen: list[torch.Size] = []
    block = mae.encoder.get_submodule("blocks.0")
    block.register_forward_hook(lambda _module, _given, out: seen.append(out.shape))

    mae.losses(*views_of(mae))

    assert seen == [torch.Size((3, 4, 24))]


def test_shown_patches_are_seen_at_their_own_places() -> None:
    mae = build()
    images, hidden_BN = views_of(mae, count=1)
    first, second = (~hidden_BN[0]).nonzero()[:2, 0].tolist()
    swapped = images.clone()
    place = [
        (
            slice(None),
            slice(None),
            slice(8 * (n // 4), 8 * (n // 4) + 8),
            slice(8 * (n % 4), 8 * (n % 4) + 8),
        )
        for n in (first, second)
    ]
    swapped[place[0]], swapped[place[1]] = images[place[1]], images[place[0]]

    assert not torch.allclose(mae.paint(images, hidden_BN), mae.paint(swapped, hidden_BN))


@pytest.mark.parametrize("norm_target", [True, False])
def test_loss_is_the_mean_squared_error_over_hidden_patches(norm_target: bool) -> None:
    mae = build(channels=2, norm_target=norm_target)
    images, hidden_BN = views_of(mae)
    guesses_BNP = mae.paint(images, hidden_BN)

    losses_B = mae.losses(images, hidden_BN)

    for image, hidden, guesses, loss in zip(images, hidden_BN, guesses_BNP, losses_B, strict=True):
        errors = []
        for patch in hidden.nonzero()[:, 0].tolist():
            row, column = divmod(patch, 4)
            target = image[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            target = target.permute(1, 2, 0).flatten()
            if norm_target:
                target = (target - target.mean()) / target.std(unbiased=False)
            errors.append((guesses[patch] - target).square().mean())
        torch.testing.assert_close(loss, torch.stack(errors).mean(), atol=1e-4, rtol=1e-4)


def test_exact_paint_has_no_loss() -> None:
    mae = build(norm_target=False)
    images = torch.full((2, 1, *SIZE), 0.5)
    _, hidden_BN = views_of(mae, count=2)
    torch.nn.init.zeros_(mae.decoder.paint.weight)
    torch.nn.init.constant_(mae.decoder.paint.bias, 0.5)

    assert mae.losses(images, hidden_BN).tolist() == [0.0, 0.0]


def test_trains_volumes() -> None:
    mae = build(size=(16, 16, 24), channels=1)

    losses_B = mae.losses(*views_of(mae))

    assert losses_B.shape == (3,)


def test_refuses_an_encoder_that_cannot_leave_patches_out() -> None:
    resnet = build_encoder(
        Named(name="resnet", knobs={"width": 8, "groups": 4}), channels=1, size=SIZE
    )

    with pytest.raises(ConfigError, match=r"'resnet' cannot leave out.*Choose encoder vit"):
        Mae(Mae.Config(), resnet)


def test_refuses_images_of_one_patch() -> None:
    with pytest.raises(ConfigError, match="one patch of 8 voxels leave nothing to hide"):
        build(size=(8, 8))


def test_refuses_heads_that_do_not_divide_the_decoder() -> None:
    with pytest.raises(ConfigError, match="decoder_dim 16 cannot be shared among 3 heads"):
        build(decoder_heads=3)

"""Perceptrons that methods put on an encoder; they normalise each image alone, never a batch.

Batch statistics would mix patients (no per-image loss, no bound for differential privacy) and would
be averaged wrongly between sites whose images differ.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), F features.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from confrere_common.encoder import Encoder


class Learned(nn.Module):
    """Learned values in place of what is hidden, as a module of one input.

    A module, for the hooks that measure each image's gradient for differential privacy see modules.
    """

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.randn(shape) * 0.02)

    def forward(self, like: Tensor) -> Tensor:
        """Return the values, repeated to the shape and in the type of *like*."""
        return self.values.to(like.dtype).expand_as(like)


class Scaled(nn.Module):
    """A learned gain and offset for each feature, in the place of a normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.offset = nn.Parameter(torch.zeros(width))

    def forward(self, features_BF: Tensor) -> Tensor:
        """Return features of the same shape."""
        return features_BF * self.gain + self.offset

    @torch.no_grad()
    def calibrate(self, features_BF: Tensor) -> None:
        """Set gain and offset so that each feature has mean 0 and variance 1 over these images."""
        self.gain.copy_(1 / (features_BF.std(0) + 1e-3))
        self.offset.copy_(-features_BF.mean(0) * self.gain)


def perceptron(
    widths: Sequence[int],
    *,
    norm: Callable[[int], nn.Module] = nn.LayerNorm,
    norm_last: bool = False,
) -> nn.Sequential:
    """Return linear layers from widths[0] to widths[-1] with *norm* and ReLU between them.

    The last layer has no bias, which would let all images share an output at no cost; *norm_last*
    puts a norm behind it.
    """
    *hidden, last = widths[1:]
    layers: list[nn.Module] = []
    for before, after in zip(widths, hidden, strict=False):
        layers += [nn.Linear(before, after, bias=False), norm(after), nn.ReLU()]
    layers.append(nn.Linear(widths[-2], last, bias=False))
    return nn.Sequential(*layers, *([norm(last)] if norm_last else []))


def in_one_pass(network: Callable[[Tensor], Tensor], *views: Tensor) -> tuple[Tensor, ...]:
    """Apply *network* to all views at once: exact, since nothing in it depends on a batch."""
    return whole(network(torch.cat(views))).chunk(len(views))


def whole(found: Tensor) -> Tensor:
    """Return *found* out of half precision; float64, in which privacy is proved, stays."""
    return found.to(torch.promote_types(found.dtype, torch.float32))


@torch.no_grad()
def calibrate(encoder: Encoder, *heads: nn.Sequential) -> None:
    """Set each ``Scaled`` of *heads*, applied in turn to the features of noise, layer by layer.

    An untrained encoder gives all images nearly the same features. Without batch statistics to
    take that common part away, methods that only ask views to agree are content with it and
    collapse; BYOL started without it learns (https://arxiv.org/abs/2010.10241, there with
    statistics of real images; here with those of noise, so that no patient is involved).
    """
    images_BCZYX = noise(encoder.channels, encoder.size)
    values_BF = torch.cat([encoder(part_BCZYX) for part_BCZYX in torch.split(images_BCZYX, 8)])
    for layer in (layer for head in heads for layer in head):
        if isinstance(layer, Scaled):
            layer.calibrate(values_BF)
        values_BF = layer(values_BF)


def noise(channels: int, size: tuple[int, ...]) -> Tensor:
    """Return 16 to 64 normalised images of noise, always the same, equally strong at all scales."""
    count = min(max(2**20 // torch.Size(size).numel(), 16), 64)
    generator = torch.Generator().manual_seed(0)
    mode = "trilinear" if len(size) == 3 else "bilinear"
    octaves = [2**octave for octave in range(max(size).bit_length())]
    images_BCZYX = torch.zeros(count, channels, *size)
    for octave in octaves:
        grid = (min(octave, side) for side in size)
        coarse_BCZYX = torch.randn(count, channels, *grid, generator=generator)
        images_BCZYX += interpolate(coarse_BCZYX, size, mode=mode)
    return images_BCZYX.div_(len(octaves) ** 0.5)

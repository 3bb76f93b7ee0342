"""One intensity step: all that is linear folded into one matrix; the rest only where it was drawn.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), P voxels in a row.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from confrere_common.augment.draw import Draws
from confrere_common.augment.presets import Ranges

MEAN, STD = 0.5, 0.25
"""What normalised images have subtracted and are divided by, on the scale of 0 to 1."""

_RADIUS = 4
_FAINTEST = 1 / 256

# NTSC: Y is the brightness of a colour, the vector (I, Q) its hue and strength. Turning it by an
# angle and stretching it is _GREY + along * _STRENGTH + across * _TURN, over RGB.
_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_RGB = torch.linalg.inv(_YIQ)
_GREY = _RGB[:, :1] @ _YIQ[:1]
_STRENGTH = torch.eye(3) - _GREY
_TURN = _RGB[:, 2:] @ _YIQ[1:2] - _RGB[:, 1:2] @ _YIQ[2:]
# Rows: optical density of haematoxylin, eosin and DAB in red, green and blue (Ruifrok & Johnston
# 2001), as in scikit-image.
_STAINS = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])


@dataclass(frozen=True, kw_only=True)
class Colour:
    """Normalised intensities as a linear function: ``mix @ x + offset + lean * mean(x)``."""

    mix: Tensor
    """(B, C, C) where colours mix, (B, C) where each channel stays by itself."""
    offset_BC: Tensor
    lean_BC: Tensor

    def __getitem__(self, part: slice) -> "Colour":
        """Return the function of some of the images."""
        return Colour(
            mix=self.mix[part], offset_BC=self.offset_BC[part], lean_BC=self.lean_BC[part]
        )

    def to(self, device: torch.device) -> "Colour":
        """Return it on *device*."""
        return Colour(
            mix=self.mix.to(device, non_blocking=True),
            offset_BC=self.offset_BC.to(device, non_blocking=True),
            lean_BC=self.lean_BC.to(device, non_blocking=True),
        )


def colour(draws: Draws, ranges: Ranges, peak: float) -> Colour:
    """Fold gain, contrast, brightness, inversion, colours and normalising, for x of 0 to *peak*."""
    contrast_B1, brightness_B1 = draws.contrast_B[:, None], draws.brightness_B[:, None]
    inverted_B1 = draws.inverted_B[:, None].float()
    gain_BC = draws.gain_BC * ((1 - 2 * inverted_B1) / STD)
    offset_BC = gain_BC * brightness_B1 + (inverted_B1 - MEAN) / STD
    mix = gain_BC * contrast_B1 / peak
    if gain_BC.shape[1] == 3 and _has_colour(ranges):
        mix = mix[:, :, None] * _colour_turn(draws)
    return Colour(mix=mix, offset_BC=offset_BC, lean_BC=gain_BC * (1 - contrast_B1) / peak)


def recolour(images_BCZYX: Tensor, colour: Colour, out_BCZYX: Tensor) -> Tensor:
    """Write the linear function of the images into *out_BCZYX* and return it."""
    rows_BCP, out_BCP = images_BCZYX.flatten(2), out_BCZYX.view(*out_BCZYX.shape[:2], -1)
    mean_B1 = rows_BCP.mean(dim=(1, 2))[:, None]
    bias_BC1 = torch.addcmul(colour.offset_BC, colour.lean_BC, mean_B1)[..., None]
    if colour.mix.dim() == 3:
        torch.baddbmm(bias_BC1, colour.mix, rows_BCP, out=out_BCP)
    else:
        torch.mul(rows_BCP, colour.mix[..., None], out=out_BCP).add_(bias_BC1)
    return out_BCZYX


def bend(images_BCZYX: Tensor, gamma_B: Tensor, peak: float) -> Tensor:
    """Overwrite the images whose gamma is not 1 with what it makes of them."""

    def change(images: Tensor, gamma_B: Tensor) -> Tensor:
        return images.div_(peak).pow_(_along(gamma_B, images)).mul_(peak)

    return _where(images_BCZYX, gamma_B, 1.0, change)


def shade(images_BCZYX: Tensor, field_B3: Tensor, lines: Sequence[Tensor]) -> Tensor:
    """Multiply the images by a field that rises or falls evenly along each of the *lines*."""
    slopes_BD = field_B3[:, -len(lines) :].to(images_BCZYX.device)
    field = images_BCZYX.new_ones(1)
    for axis, line in enumerate(lines):
        field = field + _along(slopes_BD[:, axis], images_BCZYX) * line
    return images_BCZYX.mul_(field)


def stain_mix(draws: Draws) -> tuple[Tensor, Tensor]:
    """Return what to do with the logarithm of light: a matrix (B, 3, 3) and a shift (B, 3, 1).

    Stains are scaled and added in optical density (Tellez et al.,
    https://arxiv.org/abs/1902.06543).
    """
    mix_B33 = _STAINS.T @ (draws.stain_scale_B3[:, :, None] * torch.linalg.inv(_STAINS.T))
    return mix_B33, -(_STAINS.T @ draws.stain_shift_B3[:, :, None])


def restain(images_BCZYX: Tensor, mix_B33: Tensor, shift_B31: Tensor, peak: float) -> Tensor:
    """Overwrite images of three channels with the same tissue, otherwise stained."""
    light_BCP = images_BCZYX.flatten(2).div_(peak).clamp_(min=_FAINTEST).log_()
    light_BCP = torch.baddbmm(shift_B31, mix_B33, light_BCP)
    return light_BCP.exp_().mul_(peak).view_as(images_BCZYX)


def blur(images_BCZYX: Tensor, sigma_B: Tensor, widest: float) -> Tensor:
    """Blur the images whose sigma is not 0 along one axis after the other, with at most 9 taps.

    Sigmas are in parts of the smaller side; *widest* is the largest that may come.
    """
    side = min(images_BCZYX.shape[-2:])
    reach = min(_RADIUS, max(1, math.ceil(2.5 * widest * side)))

    def change(images: Tensor, sigma_B: Tensor) -> Tensor:
        taps_BT = _taps(sigma_B * side, reach)
        axes = images.dim() - 2
        images = functional.pad(images, [reach] * (2 * axes), mode="replicate")
        for axis in range(2, 2 + axes):
            images = _smooth(images, taps_BT, axis)
        return images

    return _where(images_BCZYX, sigma_B, 0.0, change)


def add_noise(images_BCZYX: Tensor, noise_B: Tensor, generator: torch.Generator) -> Tensor:
    """Add noise, in place, to the normalised images whose strength of it is not 0."""
    chosen = _chosen(noise_B, 0.0)
    if not chosen:
        return images_BCZYX
    noise = images_BCZYX.new_empty(len(chosen), *images_BCZYX.shape[1:])
    # One by one on a CPU: there a batch comes in parts, whose number must not matter.
    for some in noise.unbind() if noise.device.type == "cpu" else [noise]:
        some.normal_(generator=generator)
    std_B = torch.tensor(list(chosen.values()), device=noise.device) / STD
    index_B = torch.tensor(list(chosen), device=noise.device)
    return images_BCZYX.index_add_(0, index_B, noise.mul_(_along(std_B, noise)))


def _has_colour(ranges: Ranges) -> bool:
    return ranges.saturation != (1.0, 1.0) or ranges.hue_turns > 0


def _colour_turn(draws: Draws) -> Tensor:
    """Return matrices that turn and stretch colours about grey, which they leave as it is."""
    along_B11 = (draws.saturation_B * draws.hue_B.cos())[:, None, None]
    across_B11 = (draws.saturation_B * draws.hue_B.sin())[:, None, None]
    turn_B33: Tensor = _GREY + along_B11 * _STRENGTH + across_B11 * _TURN
    return turn_B33


def _taps(sigma_B: Tensor, reach: int) -> Tensor:
    """Return the weights at distance 0 to *reach*; both sides together they sum to 1."""
    distance_T = torch.arange(reach + 1, device=sigma_B.device)
    taps_BT = torch.exp(-0.5 * (distance_T / sigma_B.clamp(min=1e-3)[:, None]) ** 2)
    return taps_BT / (2 * taps_BT.sum(1, keepdim=True) - 1)


def _smooth(images: Tensor, taps_BT: Tensor, axis: int) -> Tensor:
    # Sums of shifted views: on a CPU a depthwise convolution of so few images is ten times slower.
    reach = taps_BT.shape[1] - 1
    inner = images.shape[axis] - 2 * reach
    smooth = images.narrow(axis, reach, inner) * _along(taps_BT[:, 0], images)
    for step in range(1, reach + 1):
        pair = images.narrow(axis, reach - step, inner) + images.narrow(axis, reach + step, inner)
        smooth.add_(pair.mul_(_along(taps_BT[:, step], images)))
    return smooth


def _along(values_B: Tensor, images: Tensor) -> Tensor:
    return values_B.view(-1, *[1] * (images.dim() - 1))


def _chosen(values_B: Tensor, neutral: float) -> dict[int, float]:
    """Return the images whose value is not *neutral*, and that value."""
    values: list[float] = values_B.tolist()
    return {image: value for image, value in enumerate(values) if value != neutral}


def _where(
    images: Tensor, values_B: Tensor, neutral: float, change: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Change only the images whose value is not *neutral*."""
    chosen = _chosen(values_B, neutral)
    if not chosen:
        return images
    picked_B = torch.tensor(list(chosen.values()), device=images.device)
    if len(chosen) == len(images):
        return change(images, picked_B)
    index_B = torch.tensor(list(chosen), device=images.device)
    return images.index_copy_(0, index_B, change(images.index_select(0, index_B), picked_B))

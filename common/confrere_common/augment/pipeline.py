"""From stored images to normalised views, in batches, on the device that trains.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from confrere_common.augment import geometry, intensity
from confrere_common.augment.draw import Draws, draw
from confrere_common.augment.presets import Augmentation, Ranges
from confrere_common.augment.resection import draw_cavities, resect
from confrere_common.errors import DataError

BRIGHTEST = intensity.MEAN / intensity.STD
"""Largest normalised intensity; the smallest is its opposite."""

_PEAKS = {torch.uint8: 255.0, torch.uint16: 65535.0}
# So much of a batch at a time stays near a core; whole batches at 224 px in colour took 1.4 to 2
# times as long.
_CHUNK_BYTES = 1 << 20


def normalise(images_BCZYX: Tensor) -> Tensor:
    """Return stored images as floats of -2 to 2, unvaried, as evaluation wants them."""
    scale = 1 / (_peak(images_BCZYX) * intensity.STD)
    return images_BCZYX.float().mul_(scale).sub_(intensity.MEAN / intensity.STD)


PREPROCESSING: Mapping[str, Any] = {
    "resize": "longer side to the input's size, aspect kept, centred on black",
    "scale": "divide by the largest value of the stored type (255 or 65535)",
    "mean": intensity.MEAN,
    "std": intensity.STD,
}
"""What became of a file's pixels before the encoder saw them, as an encoder's card says it."""

CROPPED: Mapping[str, Any] = {
    **PREPROCESSING,
    "resize": "none: a crop of the input's size of images as they are, black beyond their edge",
}
"""The same where a run takes crops (data.crop_px)."""


def augmentation(section: Augmentation, *, channels: int, size: tuple[int, ...]) -> "Pipeline":
    """Return what makes views of images of *channels* and *size* ([Z] Y X)."""
    return Pipeline(ranges=section.ranges(), channels=channels, size=size)


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Draws for a whole batch, then varies it; an image's view depends on no other image.

    The generator is on the CPU and decides everything, so a seed gives the same draws anywhere;
    the noise alone comes from a generator of the device.
    """

    ranges: Ranges
    channels: int
    size: tuple[int, ...]

    def __call__(self, images_BCZYX: Tensor, generator: torch.Generator) -> Tensor:
        """Return a view of each stored image: float32, normalised, of the same size and device."""
        return self.cut(images_BCZYX, generator)[0]

    @torch.no_grad()
    def cut(self, images_BCZYX: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Return views, and where tissue was cut away (bool, (B, 1, [Z] Y X)), None if nowhere."""
        self._check(images_BCZYX)
        draws = draw(self.ranges, len(images_BCZYX), self.channels, generator)
        # Half precision would blunt intensities to 8 bits, so a caller's autocast is put aside.
        with torch.autocast(images_BCZYX.device.type, enabled=False):
            views_BCZYX = vary(images_BCZYX, draws, self.ranges)
            if not self.ranges.cavity_probability:
                return views_BCZYX, None
            return self._resected(views_BCZYX, generator)

    def _resected(
        self, views_BCZYX: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        count = len(views_BCZYX)
        chosen_B = torch.rand(count, generator=generator) < self.ranges.cavity_probability
        cavities = draw_cavities(count, len(self.size), generator)
        if not chosen_B.any():
            return views_BCZYX, None
        chosen = chosen_B.to(views_BCZYX.device).view(-1, *[1] * (views_BCZYX.dim() - 1))
        cut_BCZYX, where_B1ZYX = resect(views_BCZYX, cavities)
        cut_BCZYX = cut_BCZYX.clamp_(-BRIGHTEST, BRIGHTEST)
        return torch.where(chosen, cut_BCZYX, views_BCZYX), where_B1ZYX & chosen

    def _check(self, images_BCZYX: Tensor) -> None:
        shape, due = tuple(images_BCZYX.shape[1:]), (self.channels, *self.size)
        if shape != due:
            raise DataError(f"images have the shape {shape}, but views of {due} were agreed.")


def vary(images_BCZYX: Tensor, draws: Draws, ranges: Ranges) -> Tensor:
    """Return the views that *draws* describe; no chance is left."""
    plan = _plan(images_BCZYX, draws, ranges)
    noise = torch.Generator(images_BCZYX.device).manual_seed(draws.noise_seed)
    views_BCZYX = torch.empty(images_BCZYX.shape, device=images_BCZYX.device)
    for part in _chunks(images_BCZYX):
        views = _placed(images_BCZYX[part].float(), plan, part)
        views = _bent(views, plan, part)
        views = intensity.recolour(views, plan.colour[part], views_BCZYX[part])
        intensity.add_noise(views, draws.noise_B[part], noise).clamp_(-BRIGHTEST, BRIGHTEST)
    return views_BCZYX


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What the draws of a batch come to, on its device; None for what the ranges leave out."""

    ranges: Ranges
    draws: Draws
    peak: float
    lines: tuple[Tensor, ...]
    affine: Tensor | None
    stains: tuple[Tensor, Tensor] | None
    colour: intensity.Colour


def _plan(images_BCZYX: Tensor, draws: Draws, ranges: Ranges) -> _Plan:
    device, size = images_BCZYX.device, tuple(images_BCZYX.shape[2:])
    peak = _peak(images_BCZYX)
    affine = stains = None
    if geometry.resamples(ranges):
        affine = geometry.affine(draws, size).to(device)
    if images_BCZYX.shape[1] == 3 and (ranges.stain_scale or ranges.stain_shift):
        mix_B33, shift_B31 = intensity.stain_mix(draws)
        stains = mix_B33.to(device), shift_B31.to(device)
    return _Plan(
        ranges=ranges,
        draws=draws,
        peak=peak,
        lines=geometry.lines(size, device),
        affine=affine,
        stains=stains,
        colour=intensity.colour(draws, ranges, peak).to(device),
    )


def _placed(views: Tensor, plan: _Plan, part: slice) -> Tensor:
    if plan.affine is None:
        return geometry.mirror(views, plan.draws.flips_B3[part])
    return geometry.resample(views, plan.affine[part], plan.lines, plan.ranges.outside)


def _bent(views: Tensor, plan: _Plan, part: slice) -> Tensor:
    """Do what no matrix can: stains, gamma, field and blur, where the ranges have them."""
    ranges, draws = plan.ranges, plan.draws
    if plan.stains:
        views = intensity.restain(views, plan.stains[0][part], plan.stains[1][part], plan.peak)
    if ranges.gamma_probability and ranges.gamma != (1.0, 1.0):
        views = intensity.bend(views, draws.gamma_B[part], plan.peak)
    if ranges.bias_field:
        views = intensity.shade(views, draws.field_B3[part], plan.lines)
    if ranges.blur_probability and ranges.blur_sigma[1]:
        views = intensity.blur(views, draws.sigma_B[part], ranges.blur_sigma[1])
    return views


def _chunks(images_BCZYX: Tensor) -> Iterator[slice]:
    """Yield parts of a batch that fit the caches of a CPU's cores; elsewhere the whole batch."""
    batch = len(images_BCZYX)
    step = max(1, batch)
    if images_BCZYX.device.type == "cpu":
        image_bytes = 4 * max(1, images_BCZYX[:1].numel())
        step = torch.get_num_threads() * max(1, _CHUNK_BYTES // image_bytes)
    for start in range(0, batch, step):
        yield slice(start, start + step)


def _peak(images_BCZYX: Tensor) -> float:
    if images_BCZYX.dtype not in _PEAKS:
        known = " or ".join(str(one).removeprefix("torch.") for one in _PEAKS)
        raise DataError(f"images are stored as {known}, not as {images_BCZYX.dtype}.")
    return _PEAKS[images_BCZYX.dtype]

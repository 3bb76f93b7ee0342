"""One resampling: crop, aspect, turns, tilts, mirrors and shifts folded into one affine map.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), D axes of space in the order X, Y, Z
(that of ``grid_sample``), E = D + 1.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from confrere_common.augment.draw import Draws
from confrere_common.augment.presets import Ranges


def resamples(ranges: Ranges) -> bool:
    """Say whether views need new voxels; mirrors alone only move those that there are."""
    return (
        any(span != (1.0, 1.0) for span in (ranges.area, ranges.aspect))
        or any((ranges.rotation_degrees, ranges.tilt_degrees, ranges.translation))
        or ranges.quarter_turns
    )


def affine(draws: Draws, size: tuple[int, ...]) -> Tensor:
    """Return maps (B, D, E) from a place in a view to its place in the image, both in -1 to 1.

    Turns are taken in voxels, so that a turn of an image that is not square does not shear it.
    """
    axes = len(size)
    size_D = torch.tensor(size[::-1], dtype=torch.float32)
    side_BD = _sides(draws, axes)
    mirror_BD = 1 - 2 * draws.flips_B3.flip(1)[:, :axes].float()
    turn_BDD = _turn(draws, size) * (size_D / size_D[:, None])
    shift_BD = draws.place_B3.flip(1)[:, :axes] * (1 - side_BD)
    shift_BD += 2 * draws.translation_B3.flip(1)[:, :axes]
    return torch.cat([turn_BDD * (side_BD * mirror_BD)[:, None], shift_BD[..., None]], dim=2)


def resample(
    images_BCZYX: Tensor, affine_BDE: Tensor, lines: Sequence[Tensor], outside: str
) -> Tensor:
    """Return the float images that the maps show; linear, which suits parts that are enlarged."""
    grid_BZYXD = _grid(affine_BDE, lines)
    return functional.grid_sample(
        images_BCZYX, grid_BZYXD, padding_mode=outside, align_corners=False
    )


def mirror(images_BCZYX: Tensor, flips_B3: Tensor) -> Tensor:
    """Overwrite images with their mirrors where those were drawn, exact to the bit."""
    axes = images_BCZYX.dim() - 2
    for axis, flips in enumerate(flips_B3[:, -axes:].T.tolist(), start=2):
        chosen = [image for image, flip in enumerate(flips) if flip]
        if chosen:
            images_BCZYX[chosen] = images_BCZYX[chosen].flip(axis)
    return images_BCZYX


@lru_cache(maxsize=16)
def lines(size: tuple[int, ...], device: torch.device) -> tuple[Tensor, ...]:
    """Return, for each axis of *size*, where its voxels' centres lie, -1 to 1, to be broadcast."""
    found = []
    for axis, voxels in enumerate(size):
        steps = torch.arange(voxels, device=device, dtype=torch.float32)
        shape = [voxels if one == axis else 1 for one in range(len(size))]
        found.append(((2 * steps + 1) / voxels - 1).view(shape))
    return tuple(found)


def _sides(draws: Draws, axes: int) -> Tensor:
    """Return what part of each axis (X, Y, Z) is shown, at most all of it."""
    side_B = draws.area_B ** (1 / axes)
    stretch_B = draws.aspect_B.sqrt()
    sides = [side_B * stretch_B, side_B / stretch_B, side_B]
    return torch.stack(sides[:axes], dim=1).clamp(max=1)


def _turn(draws: Draws, size: tuple[int, ...]) -> Tensor:
    """Return rotations (B, D, D) over X, Y, Z: in the plane, after the tilts."""
    square = size[-1] == size[-2]
    quarters_B = draws.quarters_B if square else 2 * (draws.quarters_B % 2)
    plane_B22 = _rotation(draws.angle_B + quarters_B * (torch.pi / 2))
    if len(size) == 2:
        return plane_B22
    about_x = _in_space(_rotation(draws.tilt_B2[:, 0]), [1, 2])
    about_y = _in_space(_rotation(draws.tilt_B2[:, 1]), [0, 2])
    return _in_space(plane_B22, [0, 1]) @ about_x @ about_y


def _rotation(angle_B: Tensor) -> Tensor:
    cosine_B, sine_B = angle_B.cos(), angle_B.sin()
    return torch.stack([cosine_B, -sine_B, sine_B, cosine_B], dim=1).view(-1, 2, 2)


def _in_space(turn_B22: Tensor, axes: list[int]) -> Tensor:
    turn_B33 = torch.eye(3).repeat(len(turn_B22), 1, 1)
    turn_B33[:, torch.tensor(axes)[:, None], axes] = turn_B22
    return turn_B33


def _grid(affine_BDE: Tensor, lines: Sequence[Tensor]) -> Tensor:
    # A plane for each coordinate, summed axis by axis, takes an eighth of the time of
    # functional.affine_grid; grid_sample reads planes as fast as pairs.
    axes = len(lines)
    terms = affine_BDE.view(-1, axes, axes + 1, *[1] * axes)
    planes = terms[:, :, axes]
    for column, line in enumerate(reversed(lines)):
        planes = planes + terms[:, :, column] * line
    return planes.movedim(1, -1)

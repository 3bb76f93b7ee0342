"""A DICOM series becomes volumes: decoded file by file into place, straightened, turned to RAS.

Shapes: C channels, Z slices, Y X pixels.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confrere_client.ingest.boundary import guarded, refuse_huge, refuse_many
from confrere_client.ingest.dicom.frames import Frame, frame_from
from confrere_client.ingest.dicom.geometry import Stack, drift, normal, stacks_of
from confrere_client.ingest.dicom.header import parse
from confrere_client.ingest.dicom.native import read_native
from confrere_client.ingest.dicom.pixels import decoded, in_unit
from confrere_client.ingest.dicom.voi import voi_of
from confrere_client.ingest.reader import Exam, Part, Skipped, Voi
from confrere_client.ingest.shaping.orient import LPS_TO_RAS, affine_of, centre_of, to_ras


@dataclass(frozen=True, kw_only=True)
class Filled:
    """A stack with its voxels in place (C, Z, Y, X), one slice a frame."""

    stack: Stack
    voxels: NDArray[Any]
    voi: Voi | None
    """As its first slice has it."""


def load_series(parts: Sequence[Part], options: Mapping[str, Any]) -> Iterator[Exam]:
    """Yield each volume of a series; Skipped when one of its slices cannot be decoded."""
    with guarded("corrupt"):
        stacks = _planned(parts, options)
        filled = _filled(stacks, parts, options)
    for at in range(len(filled)):
        with guarded("corrupt"):
            exam = _exam(filled.popleft(), parts[0], f"v{at:02}" if len(stacks) > 1 else "")
        yield exam


def _planned(parts: Sequence[Part], options: Mapping[str, Any]) -> list[Stack]:
    """Return the volumes that the headers foretell; Skipped before anything large is allocated."""
    frames = [
        frame_from(values, at) for at, part in enumerate(parts) for values in part.extra["frames"]
    ]
    stacks = stacks_of(frames)
    refuse_many(len(stacks), options)
    refuse_huge(sum(4 * len(s.grid) * int(np.prod(s.frames[0].shape)) for s in stacks), options)
    return stacks


def _filled(
    stacks: Sequence[Stack], parts: Sequence[Part], options: Mapping[str, Any]
) -> deque[Filled]:
    """Return the stacks' voxels; every file is read once."""
    wanted: dict[int, dict[int, tuple[int, int, Frame]]] = {}
    for at, stack in enumerate(stacks):
        for z, frame in enumerate(stack.frames):
            wanted.setdefault(frame.part, {})[frame.index] = (at, z, frame)
    held: list[NDArray[Any] | None] = [None] * len(stacks)
    seen: dict[int, Voi | None] = {}
    for number, places in wanted.items():
        _place(parts[number], places, stacks, held, seen, options)
    return deque(
        Filled(stack=stack, voxels=voxels, voi=seen.get(at))
        for at, (stack, voxels) in enumerate(zip(stacks, held, strict=True))
        if voxels is not None
    )


def _place(
    part: Part,
    places: Mapping[int, tuple[int, int, Frame]],
    stacks: Sequence[Stack],
    held: list[NDArray[Any] | None],
    seen: dict[int, Voi | None],
    options: Mapping[str, Any],
) -> None:
    """Decode one file into the volumes that its frames belong to."""
    if (how := part.extra.get("native")) is not None:
        at, z, frame = places[0]
        volume = held[at]
        if volume is None:
            shape = (1, len(stacks[at].frames), *frame.shape)
            volume = held[at] = np.empty(shape, np.float32)
        read_native(part.file, how, volume[0, z])
        return
    ds = parse(part.file)
    for index, stored in enumerate(decoded(ds, options)):
        if index not in places:
            continue
        at, z, frame = places[index]
        values = in_unit(ds, stored, frame.scale, part.modality)  # type: ignore[arg-type]
        volume = held[at]
        if volume is None:
            shape = (values.shape[0], len(stacks[at].frames), *values.shape[1:])
            volume = held[at] = np.empty(shape, values.dtype)
            seen[at] = voi_of(ds, part.modality, index, frame.scale)  # type: ignore[arg-type]
        if volume.shape[0] != values.shape[0] or volume.shape[2:] != values.shape[1:]:
            raise Skipped("inconsistent slices", "colour and grey, or sizes, differ")
        volume[:, z] = values


def _exam(filled: Filled, part: Part, suffix: str) -> Exam:
    stack, voxels = filled.stack, filled.voxels
    tags, first = dict(part.extra["tags"]), stack.frames[0]
    if len(stack.frames) == 1:
        return Exam(
            pixels=voxels[:, 0],
            spacing_mm=tuple(first.spacing or ()),
            tags=tags,
            voi=filled.voi,
            warnings=stack.warnings,
            suffix=suffix,
        )
    voxels = _even(_upright(voxels, stack), stack)
    spacing: tuple[float, ...] = (stack.step, *(first.spacing or (1.0, 1.0)))
    centre: tuple[float, ...] = ()
    placed = first.axes is not None and first.position is not None
    told = placed and first.spacing is not None  # without places a step is but a thickness
    if placed:
        affine = _affine(stack)
        centre = centre_of(affine, voxels.shape[1:]) if told else ()
        voxels, spacing = to_ras(voxels, affine)
        tags["orientation"] = "RAS"
    return Exam(
        pixels=voxels,
        spacing_mm=spacing,
        spacing_told=told,
        centre_mm=centre,
        tags=tags,
        voi=filled.voi,
        warnings=stack.warnings,
        suffix=suffix,
    )


def _affine(stack: Stack) -> NDArray[np.float64]:
    """Return the affine of the even grid, in RAS."""
    first = stack.frames[0]
    axes = np.asarray(first.axes).reshape(2, 3)
    directions = np.stack([axes[0], axes[1], normal(first)], axis=1)
    down, along = first.spacing or (1.0, 1.0)
    origin = np.asarray(first.position, np.float64)
    made: NDArray[np.float64] = LPS_TO_RAS @ affine_of(
        origin, directions, np.array([along, down, stack.step])
    )
    return made


def _upright(voxels: NDArray[Any], stack: Stack) -> NDArray[Any]:
    """Undo a gantry tilt: move each slice by its drift; what comes in from outside is darkest."""
    shifts = drift(stack.frames)
    if shifts is None:
        return voxels
    from scipy.ndimage import shift

    for z, (down, along) in enumerate(shifts):
        for channel in voxels:
            least = channel[z].min()
            channel[z] = shift(channel[z], (down, along), order=1, cval=least)
    return voxels


def _even(voxels: NDArray[Any], stack: Stack) -> NDArray[Any]:
    """Return the voxels on the even grid; between slices they are mixed linearly."""
    if stack.even:
        return voxels
    grid = stack.grid
    upper = np.clip(np.searchsorted(stack.places, grid), 1, len(stack.places) - 1)
    gaps = np.array([high - low for low, high in pairwise(stack.places)])
    share = np.clip((grid - stack.places[upper - 1]) / gaps[upper - 1], 0, 1)
    made = np.empty((voxels.shape[0], len(grid), *voxels.shape[2:]), voxels.dtype)
    for z, (above, part) in enumerate(zip(upper, share, strict=True)):
        made[:, z] = (1 - part) * voxels[:, above - 1] + part * voxels[:, above]
    return made

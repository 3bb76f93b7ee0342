"""NRRD and MetaImage (MHA, MHD) volumes, turned to RAS.

Shapes: C channels, Z Y X voxels, T time points.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confrere_client.ingest.boundary import (
    guarded,
    refuse_damaged,
    refuse_huge,
    refuse_many,
    refuse_short,
)
from confrere_client.ingest.metaheader import DIRECTIONS, ORIGIN, SPACING, Meta, is_meta, read_meta
from confrere_client.ingest.reader import Exam, Part, Reader, Skipped, Stored
from confrere_client.ingest.shaping.orient import (
    LPS_TO_RAS,
    affine_of,
    axis_codes,
    centre_of,
    flattened,
    spacing_of,
    turned,
)

DEFLATE = 1_100
"""No more than so many bytes come out of one deflated byte."""

MORE = 1 << 20
"""Bytes that may stand before or after voxels that are packed, with them."""

BODIES = (".raw", ".zraw", ".gz")
HEADERS = (".mhd", ".nhdr")


class Volume(Reader):
    """The header is read here, and SimpleITK sees only one of our own: ours decides on paths."""

    def claims(self, head: bytes, file: Path) -> bool:
        """Say whether a header stands in *head*, or beside the file with its name."""
        return is_meta(head) != "" or _is_body(file)

    def index(self, file: Path) -> Sequence[Part]:
        """Return the one part that the file is."""
        with guarded("corrupt"):
            if _is_body(file):
                raise Skipped("part of another file", "its header stands beside it")
            meta = read_meta(file)
            refuse_short(meta.data, meta.stored, DEFLATE if meta.packed else 1)
            return [
                Part(
                    file=file,
                    group=f"volume-{file}",
                    names=meta.texts,
                    nbytes=4 * meta.stored // meta.itemsize,
                )
            ]

    def load(self, parts: Sequence[Part], options: Mapping[str, Any]) -> Iterator[Exam]:
        """Yield the volume, or one for each time point."""
        refuse_huge(parts[0].nbytes, options)
        with guarded("corrupt"):
            meta = read_meta(parts[0].file)
            if meta.packed:
                _refuse_damaged(meta)
            image = _image(meta)
            array = _array(image)
            refuse_many(len(array), options)
        for time, voxels in enumerate(array):
            with guarded("corrupt"):
                exam = _exam(image, voxels, meta, f"v{time:02}" if len(array) > 1 else "")
            yield exam


def _is_body(file: Path) -> bool:
    """Say whether the file is the voxels of a header beside it."""
    if file.suffix.lower() not in BODIES:
        return False
    stem = file.with_suffix("") if file.suffix.lower() == ".gz" else file
    if stem is not file and stem.suffix.lower() != ".raw":
        return False
    return any(stem.with_suffix(suffix).is_file() for suffix in HEADERS)


def _refuse_damaged(meta: Meta) -> None:
    """Skip packed voxels that do not inflate to their checksum: ITK gives what it got so far."""
    lines, nbytes = meta.begin
    with meta.data.open("rb") as voxels:
        for _ in range(lines):
            voxels.readline()
        voxels.seek(nbytes, os.SEEK_CUR)
        refuse_damaged(voxels, meta.stored, meta.stored + MORE)


def _image(meta: Meta) -> Any:
    import SimpleITK

    library: Any = SimpleITK  # it is not typed
    library.ProcessObject.SetGlobalWarningDisplay(False)
    reader = library.ImageFileReader()
    reader.SetImageIO(meta.io)
    reader.SetNumberOfThreads(1)
    # by descriptor: the path is short, has no character that a header could take for a sign, and
    # nothing that may name a patient is left behind when this process is ended
    with meta.data.open("rb") as voxels, os.fdopen(os.memfd_create("header"), "wb") as header:
        header.write(meta.naming(f"/proc/self/fd/{voxels.fileno()}"))
        header.flush()
        reader.SetFileName(f"/proc/self/fd/{header.fileno()}")
        return reader.Execute()


def _array(image: Any) -> NDArray[Any]:
    """Return (T, C, [Z,] Y, X): colour and plain bytes as stored, all else as float32."""
    import SimpleITK

    array = SimpleITK.GetArrayFromImage(image)
    axes, channels = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
    if axes not in (2, 3, 4):
        raise Skipped("too many axes", f"{axes}, over 4")
    if array.dtype.kind not in "uif":
        raise Skipped("unknown pixel format", "complex numbers")
    if channels == 1:
        array = array[..., None]
    elif channels not in (3, 4) or array.dtype != np.uint8:
        raise Skipped("unknown colour", f"{channels} components")
    array = array[..., :3] if axes == 4 else array[..., :3][None]
    channelled: NDArray[Any] = np.moveaxis(array, -1, 1)
    return channelled if array.dtype == np.uint8 else channelled.astype(np.float32)


def _exam(image: Any, voxels: NDArray[Any], meta: Meta, suffix: str) -> Exam:
    told = SPACING in meta.says
    if voxels.ndim == 3:
        steps = tuple(float(step) for step in reversed(image.GetSpacing()[:2]))
        pixels = np.ascontiguousarray(voxels)
        return Exam(pixels=pixels, spacing_mm=steps, spacing_told=told, suffix=suffix)
    affine = _affine(image)
    stored = Stored(
        voxels_CZYX=voxels,
        spacing_mm=spacing_of(affine),
        codes=axis_codes(affine),
        oriented=DIRECTIONS in meta.says,
    )
    pixels, spacing = flattened(*turned(voxels, stored.spacing_mm, stored.codes))
    placed = {SPACING, DIRECTIONS, ORIGIN} <= meta.says
    return Exam(
        pixels=pixels,
        spacing_mm=spacing,
        spacing_told=told,
        centre_mm=centre_of(affine, voxels.shape[1:]) if placed else (),
        stored=stored,
        tags={"orientation": "RAS"},
        suffix=suffix,
    )


def _affine(image: Any) -> NDArray[np.float64]:
    """Return the affine of the grid, in RAS."""
    across = image.GetDimension()
    directions = np.array(image.GetDirection(), np.float64).reshape(across, across)[:3, :3]
    made: NDArray[np.float64] = LPS_TO_RAS @ affine_of(
        np.array(image.GetOrigin()[:3]), directions, np.array(image.GetSpacing()[:3])
    )
    return made

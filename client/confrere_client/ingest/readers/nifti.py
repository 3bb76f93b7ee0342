"""NIfTI-1 and -2, Analyze and MGH volumes, packed or not, turned to RAS.

Shapes: C channels, Z Y X voxels, T time points.
"""

import gzip
import io
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
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
from confrere_client.ingest.reader import HEAD_BYTES, Exam, Part, Reader, Skipped, Stored
from confrere_client.ingest.shaping.orient import (
    AS_STORED,
    axis_codes,
    centre_of,
    flattened,
    spacing_of,
    turned,
)

GZIP = b"\x1f\x8b"
DEFLATE = 1_100
"""No more than so many bytes come out of one deflated byte."""

AT_ONCE = 256 << 20
"""Packed voxels of no more bytes are inflated in memory, all at once."""

TAIL = 64 << 10
"""What may follow the voxels: MGH keeps its history there."""

PAIRS = {".hdr": ".img", ".img": ".hdr"}
MARKS: Mapping[str, tuple[int, tuple[bytes, ...]]] = {
    "nifti1": (344, (b"n+1\0", b"ni1\0")),
    "nifti2": (4, (b"n+2\0", b"ni2\0")),
}
MICRO, METRE = 3, 1
UNITS = {METRE: 1000.0, MICRO: 0.001}
"""Code of the unit of length -> millimetres; all others are millimetres or unknown."""

MGH_TYPES = (0, 1, 3, 4, 10)
TEXTS = ("descrip", "aux_file", "db_name", "intent_name")


class Nifti(Reader):
    """It goes by the header's own marks, whatever the file is called.

    Analyze, which has none, needs a name that ends in .hdr.
    """

    def claims(self, head: bytes, file: Path) -> bool:
        """Say whether a header of one of the formats stands in *head*, packed or not."""
        return kind_of(inflated(head), file) != "" or _is_body(file)

    def index(self, file: Path) -> Sequence[Part]:
        """Return the one part that the file is."""
        if _is_body(file):
            raise Skipped("part of another file", "its header stands beside it")
        with guarded("corrupt"), ExitStack() as stack:
            image = _opened(file, stack)
            shape = _shape(image)
            stored = int(np.prod(shape)) * image.dataobj.dtype.itemsize
            _refuse_short(file, stored)
            return [
                Part(
                    file=file,
                    group=f"nifti-{file}",
                    names=_texts(image.header),
                    nbytes=4 * int(np.prod(shape)),
                    extra={"end": int(image.dataobj.offset) + stored},
                )
            ]

    def load(self, parts: Sequence[Part], options: Mapping[str, Any]) -> Iterator[Exam]:
        """Yield the volume, or one for each time point."""
        refuse_huge(parts[0].nbytes, options)
        with ExitStack() as stack:
            with guarded("corrupt"):
                image = _opened(parts[0].file, stack, parts[0].extra.get("end", 0))
                shape = _shape(image)
                times = shape[3] if len(shape) == 4 else 1
                refuse_many(times, options)
            for time in range(times):
                with guarded("corrupt"):
                    exam = _exam(image, shape, time, f"v{time:02}" if times > 1 else "")
                yield exam


def inflated(head: bytes) -> bytes:
    """Return the start of what is packed in *head*, or *head* as it is."""
    if not head.startswith(GZIP):
        return head
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, HEAD_BYTES)
    except zlib.error:
        return b""


def kind_of(head: bytes, file: Path) -> str:
    """Return nifti1, nifti2, analyze or mgh; '' for anything else."""
    for kind, (at, marks) in MARKS.items():
        if head[at : at + 4] in marks:
            return kind
    if len(head) < 284:
        return ""
    size = {struct.unpack_from(order, head)[0] for order in ("<i", ">i")}
    if 348 in size and ".hdr" in (suffix.lower() for suffix in file.suffixes):
        return "analyze"
    version, *sides, frames, kind_code = struct.unpack_from(">6i", head)
    sane = version == 1 and all(0 < side < 1 << 15 for side in (*sides, frames))
    return "mgh" if sane and kind_code in MGH_TYPES else ""


def _is_body(file: Path) -> bool:
    """Say whether the file is the voxels of a header beside it."""
    return file.suffix.lower() == ".img" and _partner(file) is not None


def _partner(file: Path) -> Path | None:
    """Return the other half of a .hdr/.img pair, if it is there and a file of the same folder."""
    wanted = PAIRS[file.suffix.lower()]
    for suffix in (wanted, wanted.upper()):
        other = file.with_suffix(suffix)
        if other.is_file() and other.resolve().parent == file.resolve().parent:
            return other
    return None


def _opened(file: Path, stack: ExitStack, end: int = 0) -> Any:
    """Return the lazy image of *file*; its streams close with *stack*.

    *end*: where the voxels end, for one of which they will be asked; 0 if the header is enough.
    """
    import nibabel
    from nibabel.fileholders import FileHolder

    library: Any = nibabel  # it is typed in part
    body = _partner(file) if file.suffix.lower() in PAIRS else None
    stream = (body is None and _at_once(file, end)) or _stream(file, stack, 0 if body else end)
    head = stream.read(HEAD_BYTES)
    stream.seek(0)
    kind = kind_of(head, file)
    if kind == "mgh":
        return library.MGHImage.from_file_map({"image": FileHolder(fileobj=stream)})
    if head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0":
        single = library.Nifti1Image if kind == "nifti1" else library.Nifti2Image
        return single.from_file_map({"image": FileHolder(fileobj=stream)})
    if body is None:
        raise Skipped("no pixel data", "the file of voxels beside the header is missing")
    holders = {
        "header": FileHolder(fileobj=stream),
        "image": FileHolder(fileobj=_at_once(body, end) or _stream(body, stack, end)),
    }
    pairs = {"nifti1": library.Nifti1Pair, "nifti2": library.Nifti2Pair}
    return pairs.get(kind, library.AnalyzeImage).from_file_map(holders)


def _stream(file: Path, stack: ExitStack, end: int) -> Any:
    """Return a file to read from; one that is packed is whole, if voxels up to *end* are wanted."""
    raw = stack.enter_context(file.open("rb"))
    packed = raw.read(2) == GZIP
    raw.seek(0)
    if packed and end:
        refuse_damaged(raw, end, end + AT_ONCE)
        raw.seek(0)
    return stack.enter_context(gzip.GzipFile(fileobj=raw)) if packed else raw


def _at_once(file: Path, end: int) -> io.BytesIO | None:
    """Return what is packed in *file*, inflated in half of gzip's time; None where it has to do it.

    libdeflate reads one member alone, whole: what is torn, or has several, is left to gzip. The
    last four bytes say how much comes out, and bound it.
    """
    if not 0 < end <= AT_ONCE or file.stat().st_size > end + TAIL:
        return None
    packed = file.read_bytes()
    size = int.from_bytes(packed[-4:], "little")
    if not packed.startswith(GZIP) or not end <= size <= end + TAIL:
        return None
    import imagecodecs

    try:
        plain = imagecodecs.gzip_decode(packed, out=size)
    except imagecodecs.DeflateError:
        return None
    return io.BytesIO(plain) if len(plain) == size else None


def _refuse_short(file: Path, stored: int) -> None:
    """Skip a file, or its partner of voxels, that cannot hold what the header announces."""
    body = _partner(file) if file.suffix.lower() in PAIRS else None
    held = body or file
    with held.open("rb") as stream:
        packed = stream.read(2) == GZIP
    refuse_short(held, stored, DEFLATE if packed else 1)


def _shape(image: Any) -> tuple[int, ...]:
    """Return X Y Z and, where there are several, T; Skipped for anything else."""
    shape = tuple(int(side) for side in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    shape += (1,) * (3 - len(shape))
    if any(side < 1 for side in shape):
        raise Skipped("no pixel data", "a side of no length")
    if len(shape) > 4:
        raise Skipped("too many axes", f"{len(shape)}, over 4")
    if min(len([side for side in shape[:3] if side > 1]), 2) < 2:
        raise Skipped("no image", "a line or a single value")
    return shape


def _exam(image: Any, shape: tuple[int, ...], time: int, suffix: str) -> Exam:
    stored = image.dataobj[..., time] if len(shape) == 4 else image.dataobj.get_unscaled()
    sliced = len(shape) == 4  # nibabel scales what it slices
    scale = (1.0, 0.0) if sliced else (float(image.dataobj.slope), float(image.dataobj.inter))
    voxels_CZYX = _channels(np.asarray(stored).reshape(*shape[:3]), scale)
    stored = _stored(image, voxels_CZYX)
    pixels, steps = flattened(*turned(voxels_CZYX, stored.spacing_mm, stored.codes))
    return Exam(
        pixels=pixels,
        spacing_mm=steps if min(steps) > 0 else (),
        spacing_told=stored.oriented or _is_spaced(image.header),
        centre_mm=_centre(image, voxels_CZYX) if stored.oriented else (),
        stored=stored,
        tags={} if stored.codes is AS_STORED else {"orientation": "RAS"},
        warnings=() if stored.oriented else ("no orientation",),
        suffix=suffix,
    )


def _stored(image: Any, voxels_CZYX: NDArray[Any]) -> Stored:
    """Return the volume before it is turned, and how it will be: not at all by a bad affine."""
    affine = np.asarray(image.affine, np.float64)
    try:
        codes, steps, oriented = axis_codes(affine), spacing_of(affine), _is_placed(image.header)
    except ValueError:
        zooms = (*image.header.get_zooms(), 1, 1)[:3]
        steps = tuple(float(abs(step)) for step in reversed(zooms))
        codes, oriented = AS_STORED, False
    factor = _millimetres(image.header)
    return Stored(
        voxels_CZYX=voxels_CZYX,
        spacing_mm=tuple(factor * step for step in steps),
        codes=codes,
        oriented=oriented,
    )


def _centre(image: Any, voxels_CZYX: NDArray[Any]) -> tuple[float, ...]:
    affine, factor = np.asarray(image.affine, np.float64), _millimetres(image.header)
    return tuple(factor * at for at in centre_of(affine, voxels_CZYX.shape[1:]))


def _channels(xyz: NDArray[Any], scale: tuple[float, float]) -> NDArray[Any]:
    """Return voxels as (C, Z, Y, X): colour and plain bytes as stored, else scaled float32."""
    if xyz.dtype.names:
        colours = [xyz[name] for name in xyz.dtype.names[:3]]
        if len(colours) < 3 or any(colour.dtype != np.uint8 for colour in colours):
            raise Skipped("unknown colour")
        return np.stack([colour.transpose(2, 1, 0) for colour in colours])
    if xyz.dtype.kind not in "biuf":
        raise Skipped("unknown pixel format", "complex numbers")
    zyx = xyz.transpose(2, 1, 0)[None]
    if xyz.dtype == np.uint8 and scale == (1, 0):
        return zyx
    made: NDArray[np.float32] = zyx.astype(np.float32)
    if scale != (1, 0):
        made *= np.float32(scale[0])
        made += np.float32(scale[1])
    return made


def _is_placed(header: Any) -> bool:
    """Say whether the header knows where the volume lies in the patient."""
    if "goodRASFlag" in header:
        return int(header["goodRASFlag"]) == 1
    if "sform_code" not in header:
        return False
    return int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0


def _is_spaced(header: Any) -> bool:
    """Say whether the header knows the spacing: 1 of no unit stands where nobody set it."""
    unit = "xyzt_units" in header and int(header["xyzt_units"]) & 7 != 0
    return unit or any(float(step) != 1 for step in header.get_zooms()[:3])


def _millimetres(header: Any) -> float:
    return UNITS.get(int(header["xyzt_units"]) & 7, 1.0) if "xyzt_units" in header else 1.0


def _texts(header: Any) -> tuple[str, ...]:
    """Return the free texts of the header: whoever made the file may have put a name there."""
    found = (bytes(header[name].tobytes()) for name in TEXTS if name in header)
    words = (text.split(b"\0")[0].decode("latin-1").strip() for text in found)
    return tuple(word for word in words if len(word) > 2)

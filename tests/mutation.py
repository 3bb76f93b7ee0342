"""Valid image files of many kinds, and how they are broken at random, for fuzzing readers."""

import gzip
import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import dicom_files as made
import imagecodecs
import nibabel
import numpy as np
import SimpleITK
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate

from confrere_client.ingest.preprocess import fit_exam
from confrere_client.ingest.preprocess_plan import Plan
from confrere_client.ingest.reader import HEAD_BYTES, READERS, Exam, Reader, Skipped
from confrere_client.ingest.working.facts import facts_of
from confrere_client.ingest.working.lettering import without_text

OPTIONS = {"max_bytes": 256 << 20, "max_tiles": 4}
PLAN = Plan(image_px=64)
HEADERS = (".hdr", ".mhd", ".nhdr")
"""Suffixes of headers whose voxels stand in another file."""

PNG = b"\x89PNG\r\n\x1a\n"
INTERESTING = (0x00, 0x01, 0x7F, 0x80, 0xFF)
DICOMS = (None, uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless)


def seeds(folder: Path) -> list[Path]:
    """Write small valid files of every kind and return them."""
    rng = np.random.default_rng(1)
    files = []
    for at, syntax in enumerate(DICOMS):
        ds = made.dataset(rng.integers(0, 4000, (64, 48), np.uint16), Modality="MR")
        if syntax:
            ds.compress(syntax, generate_instance_uid=False)
        files.append(made.written(ds, folder / f"{at}.dcm"))
    files += _compressed(folder, rng.integers(0, 4000, (64, 48), np.uint16))
    frames = made.dataset(
        rng.integers(0, 99, (3, 8, 8)).astype(np.int16), SOPClassUID=made.ENHANCED_CT
    )
    frames.PerFrameFunctionalGroupsSequence = made.placed_frames([0, 2, 4])
    deflated = made.ct_slice(1, 0)
    deflated.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    files += [made.written(frames, folder / "frames.dcm"), made.written(deflated, folder / "d.dcm")]
    volume = rng.integers(0, 900, (7, 6, 5)).astype(np.int16)
    for name in ("a.nii", "a.nii.gz", "a.mgz"):
        kind = nibabel.MGHImage if name.endswith("mgz") else nibabel.Nifti1Image
        nibabel.save(
            kind(volume.astype(np.int16 if kind is nibabel.Nifti1Image else np.int32), np.eye(4)),
            folder / name,
        )
        files.append(folder / name)
    for name in ("a.mha", "a.nrrd", "packed.mha", "packed.nrrd"):
        image = SimpleITK.GetImageFromArray(volume)
        SimpleITK.WriteImage(image, str(folder / name), name.startswith("packed"))
        files.append(folder / name)
    return [*files, _slide(folder / "slide.tif", rng), *_pictures(folder, rng)]


def _pictures(folder: Path, rng: np.random.Generator) -> list[Path]:
    """Write pictures of every kind that is read, and arrays."""
    colour, grey = rng.integers(0, 255, (40, 30, 3), np.uint8), rng.integers(0, 65535, (40, 30))
    made_of = {
        "a.png": Image.fromarray(colour), "deep.png": Image.fromarray(grey.astype(np.uint16)),
        "palette.png": Image.fromarray(colour).quantize(16), "a.jpg": Image.fromarray(colour),
        "a.bmp": Image.fromarray(colour[..., 0]), "a.tif": Image.fromarray(colour),
    }  # fmt: skip
    for name, picture in made_of.items():
        picture.save(folder / name)
    np.savez_compressed(
        folder / "a.npz", train_images=rng.integers(0, 255, (3, 28, 28), np.uint8),
        train_labels=np.arange(3)[:, None],
    )  # fmt: skip
    return [folder / name for name in (*made_of, "a.npz")]


def _compressed(folder: Path, pixels: NDArray[np.uint16]) -> list[Path]:
    """Write what pydicom cannot compress itself."""
    streams = {
        uid.HTJ2KLossless: imagecodecs.htj2k_encode(pixels),
        uid.JPEGLosslessSV1: imagecodecs.ljpeg_encode(pixels, bitspersample=12),
        uid.JPEGExtended12Bit: imagecodecs.jpeg8_encode(pixels, bitspersample=12, level=98),
    }
    files = []
    for syntax, stream in streams.items():
        ds = made.dataset(pixels, Modality="MR", BitsStored=12, HighBit=11)
        ds.file_meta.TransferSyntaxUID = syntax
        ds.PixelData = encapsulate([stream])
        ds["PixelData"].VR = "OB"
        files.append(made.written(ds, folder / f"{syntax.keyword}.dcm"))
    return files


def _slide(path: Path, rng: np.random.Generator) -> Path:
    image = np.full((2048, 256, 3), 240, np.uint8)
    image[:256] = rng.integers(60, 180, (256, 1, 3), np.uint8)
    options: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb", "compression": "deflate"}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(image, **options)
        tiff.write(np.ascontiguousarray(image[::4, ::4]), subfiletype=1, **options)
    return path


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Return *data* broken in one of the ways in which files break: bits, bytes, cuts, copies."""
    made_of = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        size = len(made_of)
        if size < 8:
            break
        # half of all harm goes to the header, where it does most
        at = int(rng.integers(0, min(size, 1200) if rng.random() < 0.5 else size))
        match int(rng.integers(0, 6)):
            case 0:
                made_of[at] ^= 1 << int(rng.integers(0, 8))
            case 1:
                made_of[at] = int(rng.choice(INTERESTING))
            case 2:
                end = min(size, at + int(rng.integers(1, 9)))
                made_of[at:end] = rng.bytes(end - at)
            case 3:
                del made_of[at : at + int(rng.integers(1, 64))]
            case 4:
                made_of[at:at] = made_of[max(0, at - 32) : at]
            case _:
                made_of = (
                    made_of[: max(8, int(rng.integers(0, size)))] if rng.random() < 0.3 else made_of
                )
    return bytes(made_of)


def harmed(data: bytes, rng: np.random.Generator) -> bytes:
    """Return *data* broken; what is packed is broken inside its packing half the time.

    Else checksums would see nearly all of it.
    """
    if rng.random() < 0.5:
        try:
            return _harmed_within(data, rng)
        except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile):
            pass  # it was broken before
    return mutated(data, rng)


def _harmed_within(data: bytes, rng: np.random.Generator) -> bytes:
    if data.startswith(b"\x1f\x8b"):
        return gzip.compress(mutated(gzip.decompress(data), rng), 1)
    if data.startswith(b"PK\x03\x04"):
        return _harmed_member(data, rng)
    return _resealed(mutated(data, rng)) if data.startswith(PNG) else mutated(data, rng)


def _harmed_member(data: bytes, rng: np.random.Generator) -> bytes:
    """Return a zip of which one member is broken, under a checksum that fits."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as whole, zipfile.ZipFile(stream, "w") as made_of:
        names = whole.namelist()
        chosen = names[int(rng.integers(0, len(names)))]
        for name in names:
            member = whole.read(name)
            made_of.writestr(name, mutated(member, rng) if name == chosen else member)
    return stream.getvalue()


def _resealed(data: bytes) -> bytes:
    """Return a PNG whose checksums fit, as far as its chunks can be told apart."""
    made_of, at = bytearray(data), len(PNG)
    while at + 12 <= len(made_of):
        end = at + 8 + int.from_bytes(made_of[at : at + 4], "big")
        if end + 4 > len(made_of):
            break
        made_of[end : end + 4] = zlib.crc32(made_of[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(made_of)


@cache
def readers() -> Mapping[str, Reader]:
    """Return all readers, in the order in which `prepare` asks them."""
    made_of: dict[str, Reader] = {name: READERS.member(name)() for name in READERS.names()}
    return dict(sorted(made_of.items(), key=lambda pair: pair[1].last_resort))


def tried(file: Path) -> str:
    """Read and prepare *file* as `prepare` would; return what came of it, 'read' or why not.

    Whatever escapes is a fault.
    """
    head = file.read_bytes()[:HEAD_BYTES]
    refused = ""
    for reader in readers().values():
        if not reader.claims(head, file):
            continue
        try:
            parts = reader.index(file)
        except Skipped as skipped:
            refused = refused or skipped.kind
            continue
        try:
            for part in parts:
                for exam in reader.load([part], OPTIONS):
                    _kept(exam, part.modality)
        except Skipped as skipped:
            return skipped.kind
        return "read"
    return refused or "unclaimed"


def _kept(exam: Exam, modality: str) -> None:
    """Do to an exam what is done before it is written."""
    tagged = replace(exam, tags={"modality": modality, **exam.tags})
    clean = without_text(tagged, str(tagged.tags["modality"]), "mask")
    pixels, _ = fit_exam(clean, PLAN)
    facts_of(clean, pixels, ())

"""Kinds of files that preparing is timed on: how they are made, and what a plain loop does."""

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
import pacs

from confrere_client.ingest.preprocess_plan import Plan

BOX_SLICES = 40

Decoded = Callable[[Sequence[Path]], Iterator[np.ndarray]]


def plain(decoded: Decoded, files: Sequence[Path], out: Path) -> None:
    """Write what *decoded* makes of *files*."""
    with out.open("wb") as target:
        for values in decoded(files):
            target.write(values.tobytes())


def whole(decoded: Decoded, files: Sequence[Path], out: Path) -> None:
    """Write it, and where each image lies, with digest and figures."""
    rows = []
    with out.open("wb") as target:
        for values in decoded(by_series(files)):
            rows.append(
                {
                    "offset": target.tell(), "shape": list(values.shape),
                    "digest": hashlib.sha256(values).hexdigest(),
                    "mean": float(values.mean()), "std": float(values.std()),
                }
            )  # fmt: skip
            target.write(values)
    pq.write_table(pa.Table.from_pylist(rows), out.with_suffix(".parquet"))


def by_series(files: Sequence[Path]) -> Sequence[Path]:
    """Return DICOM files sorted by what their headers say; others as they are."""
    import pydicom

    if files[0].suffix != ".dcm":
        return files
    found = []
    for file in files:
        ds = pydicom.dcmread(file, stop_before_pixels=True)
        place = float(ds.ImagePositionPatient[2])
        found.append((str(ds.PatientID), str(ds.SeriesInstanceUID), place, file))
    return [file for *_, file in sorted(found)]


def plain_ct(files: Sequence[Path]) -> Iterator[np.ndarray]:
    """Stack each folder's slices by position, in HU, windowed."""
    import pydicom

    folders: dict[Path, list[Path]] = {}
    for file in files:
        folders.setdefault(file.parent, []).append(file)
    for slices in folders.values():
        read = [pydicom.dcmread(file) for file in slices]
        read.sort(key=lambda ds: float(ds.ImagePositionPatient[2]))
        volume = np.stack([ds.pixel_array for ds in read]).astype(np.float32)
        volume *= np.float32(read[0].RescaleSlope)
        volume += np.float32(read[0].RescaleIntercept)
        yield levels(volume, -1000, 1000)


def plain_picture(files: Sequence[Path]) -> Iterator[np.ndarray]:
    for file in files:
        with Image.open(file) as image:
            colour = image.convert("RGB")
        if max(colour.size) > 256:
            colour = colour.resize((256, 256), Image.Resampling.BILINEAR)
        yield np.ascontiguousarray(np.moveaxis(np.asarray(colour), -1, 0))


def plain_nifti(files: Sequence[Path]) -> Iterator[np.ndarray]:
    import nibabel

    for file in files:
        image: Any = nibabel.as_closest_canonical(nibabel.load(file))
        volume = np.asarray(image.dataobj, np.float32).T
        low, high = np.percentile(volume[volume > volume.mean()], (0.5, 99.5))
        yield np.ascontiguousarray(levels(volume, low, high))


def levels(values: np.ndarray, low: float, high: float) -> np.ndarray:
    scaled = np.clip((values - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)
    return np.rint(scaled * 65535).astype(np.uint16)


def make_ct(folder: Path, count: int, syntax: Any = None) -> None:
    rng = np.random.default_rng(0)
    for at in range(count):
        series, z = divmod(at, BOX_SLICES)
        who = pacs.Person(
            number=series, name=f"A{series}^B", identity=f"PAT{series}", born="19500101"
        )
        body = pacs._body(np.random.default_rng(series), 256) + rng.normal(0, 9, (256, 256))
        ds = pacs._slice(who, z, body)
        path = folder / f"{series:03}/{z:03}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        (pacs.packed(ds, syntax) if syntax else ds).save_as(path)


def make_packed_ct(folder: Path, count: int) -> None:
    make_ct(folder, count, pacs.JPEG2000Lossless)


def make_pictures(folder: Path, count: int, px: int, suffix: str) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for at in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (px // 8, px // 8, 3), np.uint8))
        coarse.resize((px, px), Image.Resampling.BICUBIC).save(folder / f"{at:05}.{suffix}")


def make_nifti(folder: Path, count: int) -> None:
    import nibabel

    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for at in range(count):
        values = ball(rng, 64)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / f"{at:05}.nii.gz")


def ball(rng: np.random.Generator, side: int) -> np.ndarray:
    grid = np.indices((side,) * 3, np.float32) - side / 2
    inside = (grid**2).sum(0) < (side * 0.4) ** 2
    return (inside * 500 + rng.normal(60, 15, inside.shape)).astype(np.int16)


KINDS: dict[str, tuple[Callable[[Path, int], None], Decoded, Plan, float]] = {
    "CT slices, 256 px": (make_ct, plain_ct, Plan(image_px=None), 1),
    "CT slices, JPEG 2000": (make_packed_ct, plain_ct, Plan(image_px=None), 0.5),
    "JPEG, 224 px kept": (
        lambda folder, count: make_pictures(folder, count, 224, "jpg"),
        plain_picture, Plan(image_px=256), 1,
    ),
    "JPEG, 1024 to 256 px": (
        lambda folder, count: make_pictures(folder, count, 1024, "jpg"),
        plain_picture, Plan(image_px=256), 0.5,
    ),
    "PNG, 512 to 256 px": (
        lambda folder, count: make_pictures(folder, count, 512, "png"),
        plain_picture, Plan(image_px=256), 0.5,
    ),
    "NIfTI, 64 voxels, gz": (
        make_nifti, plain_nifti, Plan(modality="mr", image_px=None), 0.5,
    ),
}  # fmt: skip
"""Name -> how files are made, the plain decoding, our plan, the share of --files."""

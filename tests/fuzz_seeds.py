"""Files from which broken ones are made: real ones that a reader claims, and generated ones.

Real files are of public data sets; those that hold thousands of images are cut to a few.
"""

import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import mutation
import numpy as np
from numpy.typing import NDArray

from confrere_client.ingest.reader import HEAD_BYTES

FOLDERS = (
    "ingest_dicom_pydicom", "ingest_nifti_nibabel", "ingest_panimg", "mri_msd_hippocampus",
    "nuclei_dsb2018_fluorescence", "blood_bccd_boxes", "cxr_pneumoniamnist", "ct_adrenalmnist3d_64",
)  # fmt: skip
LARGEST = 4 << 20
ARRAYS = 8
"""Images that are kept of each array of an .npz."""

BODY = "part of another file"


@dataclass(frozen=True, kw_only=True)
class Seed:
    """A file that is whole, as far as it ever was."""

    file: Path
    reader: str
    """Which reader claims it."""

    real: bool
    sound: bool = True
    """Whether it can be read and prepared as it is; else it is skipped from the start."""

    beside: tuple[Path, ...] = ()
    """Files that it cannot be read without: the voxels of a header."""


def generated(folder: Path) -> list[Seed]:
    """Write valid files of every kind and return them."""
    return [seed for file in mutation.seeds(folder) for seed in _seed(file, real=False)]


def real(data: Path, folder: Path) -> list[Seed]:
    """Return the files of *data* that a reader claims; what has to be cut is cut into *folder*."""
    found: list[Seed] = []
    for name in FOLDERS:
        for file in sorted(path for path in (data / name).rglob("*") if path.is_file()):
            cut = _cut(file, folder / f"{name}.npz") if file.suffix == ".npz" else file
            if 0 < cut.stat().st_size <= LARGEST:
                found += _seed(cut, real=True)
    return found


def _seed(file: Path, *, real: bool) -> Iterator[Seed]:
    """Yield the seed that a file is; nothing where no reader claims it, or it is another's body."""
    with file.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    for name, reader in mutation.readers().items():
        if not reader.claims(head, file):
            continue
        outcome = mutation.tried(file)
        if outcome == BODY:
            return
        beside = tuple(_beside(file, head)) if file.suffix in mutation.HEADERS else ()
        yield Seed(file=file, reader=name, real=real, sound=outcome == "read", beside=beside)
        return


def _beside(file: Path, head: bytes) -> Iterator[Path]:
    """Yield the small files of the same folder that a header names, or that are called as it is."""
    for other in sorted(file.parent.iterdir()):
        named = other.name.encode() in head or other.stem == file.stem
        if other != file and other.is_file() and named and other.stat().st_size <= LARGEST:
            yield other


def _cut(file: Path, into: Path) -> Path:
    """Write the first few images, and what stands beside them, of each array of an .npz."""
    with zipfile.ZipFile(file) as archive:
        arrays = {Path(name).stem: _first(archive, name) for name in archive.namelist()}
    np.savez_compressed(into, **arrays)  # type: ignore[arg-type]
    return into


def _first(archive: zipfile.ZipFile, name: str) -> NDArray[np.generic]:
    """Return the start of an array; the whole would be half a gigabyte."""
    with archive.open(name) as stream:
        np.lib.format.read_magic(stream)  # type: ignore[no-untyped-call]
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)  # type: ignore[no-untyped-call]
        count = min(shape[0], ARRAYS)
        size = count * int(np.prod(shape[1:])) * dtype.itemsize
        return np.frombuffer(stream.read(size), dtype).reshape(count, *shape[1:])


def chosen(seeds: Sequence[Seed], number: int) -> Seed:
    """Return the seed of input *number*: readers take turns, and each has its files in turn.

    Every fourth of a reader is one that was not sound before: else these would be most of DICOM.
    """
    names = sorted({seed.reader for seed in seeds})
    own = [seed for seed in seeds if seed.reader == names[number % len(names)]]
    turn = number // len(names)
    kind = [seed for seed in own if seed.sound == (turn % 4 > 0)] or own
    # a number of its own for each kind, so that its files are all met
    return kind[(turn - turn // 4 - 1 if turn % 4 else turn // 4) % len(kind)]


def broken(seed: Seed, number: int, folder: Path) -> Path:
    """Write input *number* into an empty *folder*: a seed, or what lies beside it, broken."""
    rng = np.random.default_rng([number, 7])
    files = (seed.file, *seed.beside)
    harmed = (
        files[0] if len(files) == 1 or rng.random() < 0.5 else files[rng.integers(1, len(files))]
    )
    for file in files:
        data = file.read_bytes()
        (folder / file.name).write_bytes(mutation.harmed(data, rng) if file == harmed else data)
    return folder / seed.file.name


def counted(seeds: Iterable[Seed]) -> dict[str, int]:
    """Return how many seeds each reader has."""
    names = [seed.reader for seed in seeds]
    return {name: names.count(name) for name in sorted(set(names))}

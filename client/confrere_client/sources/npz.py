"""Arrays in one .npz as MedMNIST lays them out: train_images, train_labels, val_..., test_....

Shapes: N images, Z Y X voxels, C channels.
"""

import weakref
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from logging import getLogger
from math import prod
from pathlib import Path
from threading import Lock
from typing import IO, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from confrere_client.data.catalog import check_patients
from confrere_client.data.decode import Pixels, to_pixels
from confrere_client.data.fingerprint import content
from confrere_client.source import Record, Source, UnreadableImage
from confrere_common.errors import DataError
from confrere_common.section import section

log = getLogger(__name__)
SPLITS = ("train", "val", "test", "")
BLOCK_BYTES = 8 << 20
BLOCKS_KEPT = 4
COLOURS = (1, 3, 4)
"""A last axis of this length is colour, unless `dims` says otherwise; of 4, alpha is dropped."""


class Npz(Source):
    """Images (N, Y, X), (N, Y, X, C), (N, Z, Y, X) or (N, Z, Y, X, C) of one archive.

    Labels may stand beside them (``train_labels``: numbers or text, (N,) or (N, 1); -1 or NaN is
    unlabelled), and so may ``train_patients`` and ``train_sites``. Where an image has several
    labels they are left out, with a warning: a class is one name. An archive without splits
    calls its arrays ``images``, ``labels`` and so on. Pickled objects are never opened.
    """

    @section
    class Config:
        """Which file, and how its axes are meant."""

        path: Annotated[str, Field(min_length=1)]
        """The .npz file."""

        dims: Literal[2, 3] | None = None
        """2-D or 3-D; None: an array with 4 axes is 2-D if the last has 1, 3 or 4 entries."""

    def records(self) -> Sequence[Record]:
        """List the images of every split; nothing but labels is read."""
        path, keys = self._path(), self._keys()
        splits = [split for split in SPLITS if _key(split, "images") in keys]
        if not splits:
            raise DataError(
                f"'{self.config.path}' holds no train_images, val_images, test_images or images. "
                f"It holds: {', '.join(sorted(keys)) or 'nothing'}."
            )
        found = [record for split in splits for record in self._of_split(path, keys, split)]
        if not found:
            raise DataError(f"the arrays of '{self.config.path}' hold no image.")
        check_patients(found)
        return found

    def fingerprint(self) -> Iterator[bytes]:
        """Yield how the axes are meant, then the file."""
        self._keys()
        yield str(self.config.dims).encode()
        yield from content(self._path())

    def _path(self) -> Path:
        return self.folder / Path(self.config.path).expanduser()

    def _keys(self) -> set[str]:
        try:
            with zipfile.ZipFile(self._path()) as archive:
                return {name.removesuffix(".npy") for name in archive.namelist()}
        except NotImplementedError:
            raise DataError(
                f"'{self.config.path}' says that it is a zip of a newer kind, or is damaged. Copy "
                "it again, or save it with numpy.savez_compressed."
            ) from None
        except FileNotFoundError:
            raise DataError(
                f"there is no file '{self.config.path}' (paths start at the run's file)."
            ) from None
        except (zipfile.BadZipFile, OSError):
            raise DataError(
                f"'{self.config.path}' is no .npz archive, or is cut short. Copy it again."
            ) from None

    def _of_split(self, path: Path, keys: set[str], split: str) -> Iterator[Record]:
        rows = Rows(path, _key(split, "images"))
        dims = _dims(rows.key, rows.shape, self.config.dims)
        known = [_beside(path, keys, split, what) for what in ("labels", "patients", "sites")]
        texts = [_texts(column, len(rows), rows.key) for column in known]
        for index, (label, patient, site) in enumerate(zip(*texts, strict=True)):
            name = f"{split or 'image'}/{index}"
            yield Record(
                name=name,
                decode=partial(_decode, rows, index, dims),
                patient=patient or name,
                site=site,
                split=split,
                label=label,
            )


class Rows:
    """The rows of one array, inflated forward in blocks: memory is a few MB, whatever its size."""

    def __init__(self, path: Path, key: str, block_bytes: int = BLOCK_BYTES) -> None:
        self.key = key
        self._path = path
        self._lock = Lock()
        self._blocks: dict[int, NDArray[Any]] = {}
        self._stream: IO[bytes] | None = None
        self._sound: bool | None = None
        with ExitStack() as files:
            stream = _member(path, key, files)
            self.shape, self.dtype = _header(stream, key)
            self._start = stream.tell()
        self._row_bytes = prod(self.shape[1:]) * self.dtype.itemsize
        _refuse_empty_claim(path, key, self._start + self.shape[0] * self._row_bytes)
        self._per_block = max(1, block_bytes // max(1, self._row_bytes))

    def __len__(self) -> int:
        return self.shape[0]

    def row(self, index: int) -> NDArray[Any]:
        """Return one row; UnreadableImage when the array is damaged. Threads may call."""
        number, offset = divmod(index, self._per_block)
        with self._lock:
            self._check()
            if number not in self._blocks:
                self._blocks[number] = self._block(number)
            while len(self._blocks) > BLOCKS_KEPT:
                del self._blocks[next(iter(self._blocks))]
            return np.array(self._blocks[number][offset])

    def _block(self, number: int) -> NDArray[Any]:
        count = min(self._per_block, len(self) - number * self._per_block)
        data = self._read(number * self._per_block * self._row_bytes, count * self._row_bytes)
        return np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])

    def _check(self) -> None:
        """Inflate all once: damage shows only in the checksum, which stands at the end."""
        if self._sound is None:
            self._sound = _intact(self._path, self.key, self._start + len(self) * self._row_bytes)
        if not self._sound:
            raise UnreadableImage("array in the archive is damaged")

    def _read(self, offset: int, count: int) -> bytes:
        if self._stream is None:
            files = ExitStack()
            self._stream = _member(self._path, self.key, files)
            weakref.finalize(self, files.close)
        self._stream.seek(self._start + offset)
        return self._stream.read(count)


def _member(path: Path, key: str, files: ExitStack) -> IO[bytes]:
    """Open one array of the archive, to be closed with *files*; it is inflated as it is read."""
    try:
        archive = files.enter_context(zipfile.ZipFile(path))
        return files.enter_context(archive.open(f"{key}.npy"))
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, KeyError):
        raise DataError(
            f"the array '{key}' cannot be opened. Save the archive with numpy.savez_compressed."
        ) from None


def _refuse_empty_claim(path: Path, key: str, length: int) -> None:
    """Raise DataError where the archive holds less than an array's header claims.

    A few bytes can claim a thousand million images, and each is listed before any is read.
    """
    with zipfile.ZipFile(path) as archive:
        held = archive.getinfo(f"{key}.npy").file_size
    if held < length:
        raise DataError(
            f"the array '{key}' claims {length} bytes and has {held}. Copy the file again."
        )


def _intact(path: Path, key: str, length: int) -> bool:
    """Return whether an array has its full length and its checksum."""
    found = 0
    try:
        with ExitStack() as files:
            stream = _member(path, key, files)
            while piece := stream.read(BLOCK_BYTES):
                found += len(piece)
    except Exception:  # damaged bytes raise zlib, zip, value and end-of-file errors
        return False
    return found == length


def _header(stream: IO[bytes], key: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and type of the array that begins here; DataError when it is not of pixels."""
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0
        read = np.lib.format.read_array_header_2_0 if version == (2, 0) else read
        shape, by_column, dtype = read(stream)
    except Exception:  # a damaged archive raises zip, zlib, value, syntax and end-of-file errors
        raise DataError(
            f"the array '{key}' has no valid .npy header. Copy the file again."
        ) from None
    if dtype.kind not in "buif":
        raise DataError(
            f"the array '{key}' holds {dtype}: images must be numbers (uint8, uint16, int, float "
            "or bool). Objects are never unpickled, for they could run code."
        )
    if by_column:
        raise DataError(f"the array '{key}' lies by columns: save numpy.ascontiguousarray of it.")
    return shape, dtype


def _dims(key: str, shape: tuple[int, ...], wanted: int | None) -> int:
    """Return whether the images are 2-D or 3-D; DataError when the axes do not allow it."""
    axes = len(shape)
    guess = {3: 2, 4: 2 if shape[-1] in COLOURS else 3, 5: 3}.get(axes)
    dims = wanted or guess
    if dims is None or axes not in (dims + 1, dims + 2) or 0 in shape[1:]:
        meant = f" with dims: {wanted}" if wanted else ""
        raise DataError(
            f"the array '{key}' has the shape {shape}{meant}: images are (N, Y, X), (N, Y, X, C), "
            "(N, Z, Y, X) or (N, Z, Y, X, C)."
        )
    return dims


def _decode(rows: Rows, index: int, dims: int) -> Pixels:
    values = rows.row(index)
    if values.ndim == dims:
        return to_pixels(values)[None]
    colour = values[..., :3] if values.shape[-1] == 4 else values
    return np.ascontiguousarray(np.moveaxis(to_pixels(colour), -1, 0))


def _key(split: str, what: str) -> str:
    return f"{split}_{what}" if split else what


def _beside(path: Path, keys: set[str], split: str, what: str) -> tuple[str, NDArray[Any]] | None:
    """Return name and values of the array that tells *what* of each image, if there is one."""
    key = _key(split, what)
    if key not in keys:
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            values = archive[key]
        if not isinstance(values, np.ndarray):  # numpy gives the bytes of what is no array
            raise TypeError
        return key, values
    except Exception:  # pickled objects raise ValueError, damage raises zip and zlib errors
        raise DataError(
            f"the array '{key}' is damaged or holds objects, which are never unpickled. "
            "Save numbers or text."
        ) from None


def _texts(column: tuple[str, NDArray[Any]] | None, count: int, images_key: str) -> list[str]:
    """Return one text an image, '' where nothing is known."""
    if column is None:
        return [""] * count
    key, values = column
    if values.ndim == 0 or len(values) != count:
        rows = len(values) if values.ndim else 1
        raise DataError(f"'{key}' has {rows} rows for the {count} images of '{images_key}'.")
    flat = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if flat.ndim != 1:
        log.warning("'%s' has several values an image; they are left out", key)
        return [""] * count
    return [_text(value) for value in flat.tolist()]


def _text(value: Any) -> str:
    """Return a label as text; -1 and NaN say that there is none."""
    if isinstance(value, float):
        value = "" if value != value else int(value) if value.is_integer() else value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    return "" if value == -1 else str(int(value) if isinstance(value, bool) else value).strip()

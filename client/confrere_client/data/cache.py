"""The cache: images are decoded once into one memory-mapped file, found again by their content.

``CACHE/<digest>/pixels.npy`` and ``manifest.json``. A cache appears whole or not at all (written
beside, synced, renamed), so several processes may build it at once: the first one's is used.
Neither names nor patients are kept in it. It holds images: its folder is the user's own (0700).
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from logging import getLogger
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from warnings import catch_warnings, simplefilter

import numpy as np

from confrere_client.data.decode import Pixels
from confrere_client.data.spool import HEADER_BYTES, Spool, Spooled, disk, header
from confrere_client.source import Record, UnreadableImage
from confrere_common.errors import DataError

log = getLogger(__name__)
T = TypeVar("T")
Progress: TypeAlias = Callable[[int, int], None]
"""Hear how many images are done, of how many."""

Prepare: TypeAlias = Callable[[Record], Pixels]
"""Return one image as it shall be kept; UnreadableImage to leave it out. Threads call it."""


VERSION = 1
"""Raise it whenever other pixels come from the same files; older caches are then built anew."""

DEAD_AFTER_S = 3600.0
"""A build that has written nothing for so long was killed."""

MOST_THREADS = 8


def default_cache_dir() -> Path:
    """Return $CONFRERE_CACHE, else the user's cache folder of this system."""
    if own := os.environ.get("CONFRERE_CACHE"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "confrere"
    return Path.home() / ".cache" / "confrere"


def stored(home: Path, digest: str, listed: int) -> Any:
    """Return the manifest of a sound cache; None, with a warning if there is an unsound one."""
    if not home.exists():
        return None
    try:
        manifest = json.loads((home / "manifest.json").read_bytes())
        fault = _fault(manifest, home / "pixels.npy", digest, listed)
    except (OSError, ValueError, KeyError, TypeError):
        fault = "is damaged"
    if not fault:
        return manifest
    log.warning("the image cache %s: decoding again", fault)
    return None


def _fault(manifest: Any, pixels: Path, digest: str, listed: int) -> str:
    """Say what is wrong with a cache, '' when nothing is."""
    if manifest["version"] != VERSION:
        return f"is of version {manifest['version']}, not {VERSION}"
    if manifest["check"] != _check(manifest):
        return "has an altered manifest"
    if (manifest["digest"], manifest["listed"]) != (digest, listed):
        return "belongs to other images"
    shape, dtype = tuple(manifest["shape"]), np.dtype(manifest["dtype"])
    if pixels.stat().st_size != HEADER_BYTES + int(np.prod(shape)) * dtype.itemsize:
        return "has pixels missing or too many"
    with pixels.open("rb") as file:
        same = file.read(HEADER_BYTES) == header(shape, dtype.name)
    return "" if same else "has an altered header"


def _check(manifest: dict[str, Any]) -> str:
    """Return the digest of a manifest but for its own check."""
    rest = {key: value for key, value in manifest.items() if key != "check"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def build(
    records: Sequence[Record],
    prepare: Prepare,
    digest: str,
    home: Path,
    progress: Progress | None,
    *,
    own: bool = False,
) -> None:
    """Write what *prepare* makes of all images into a folder beside; let it appear as *home*.

    Images are all of one size, or keep each its *own* and lie one after the other.
    """
    with disk():
        home.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sweep(home.parent)
        # only its owner may enter it
        beside = Path(tempfile.mkdtemp(prefix=".building-", dir=home.parent))
    try:
        spooled, skipped = _decode_all(records, prepare, Spool(beside, own=own), progress)
        manifest: dict[str, Any] = {
            "version": VERSION,
            "digest": digest,
            "listed": len(records),
            "shape": spooled.shape,
            "dtype": spooled.dtype,
            "rows": spooled.rows,
            "skipped": sorted((*skipped, *spooled.skipped)),
        }
        if own:
            manifest |= {"channels": spooled.channels, "sides": spooled.sides}
        _write(beside / "manifest.json", manifest | {"check": _check(manifest)})
        _publish(beside, home, lambda: stored(home, digest, len(records)) is not None)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _decode_all(
    records: Sequence[Record],
    prepare: Prepare,
    spool: Spool,
    progress: Progress | None,
) -> tuple[Spooled, list[tuple[int, str]]]:
    """Decode each image once into *spool*; return what it holds and what was skipped, why."""
    skipped: list[tuple[int, str]] = []

    def decode(record: Record) -> Pixels | str:
        try:
            return prepare(record)
        except UnreadableImage as fault:
            return str(fault)

    try:
        for row, found in enumerate(in_order(decode, records)):
            if isinstance(found, str):
                skipped.append((row, found))
            elif spool.dims() in (0, found.ndim - 1):
                spool.append(row, found)
            else:
                skipped.append((row, f"is {found.ndim - 1}-D among {spool.dims()}-D images"))
            if progress:
                progress(row + 1, len(records))
        report(skipped, len(records))
        return spool.finish(), skipped
    finally:
        spool.close()


def in_order(work: Callable[[Record], T], records: Iterable[Record]) -> Iterator[T]:
    """Yield what *work* makes of each record, in order, from threads with few in flight."""
    threads = min(MOST_THREADS, os.cpu_count() or 1)
    waiting: deque[Future[T]] = deque()
    # decoders warn of corrupt metadata, image by image, on stderr; a filter holds for all threads
    with catch_warnings(), ThreadPoolExecutor(threads) as pool:
        simplefilter("ignore")
        for record in records:
            waiting.append(pool.submit(work, record))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def report(skipped: Sequence[tuple[int, str]], count: int) -> None:
    """Log how many images were skipped and why; DataError when that is all of them."""
    reasons = Counter(reason for _, reason in skipped).most_common(8)
    listed = "; ".join(f"{times} x {reason}" for reason, times in reasons)
    if len(skipped) == count:
        raise DataError(
            f"none of the {count} images can be read: {listed}. Check the paths and that the files "
            "are PNG, JPEG, TIFF or BMP."
        )
    if skipped:
        log.warning("skipped %d of %d images: %s", len(skipped), count, listed)


def _write(path: Path, manifest: dict[str, Any]) -> None:
    with disk(), path.open("w") as file:
        json.dump(manifest, file)
        file.flush()
        os.fsync(file.fileno())


def _publish(beside: Path, home: Path, is_sound: Callable[[], bool]) -> None:
    """Rename *beside* to *home*, unless another process was first with a sound one."""
    with disk():
        try:
            beside.rename(home)
        except OSError as fault:
            if fault.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if is_sound():
                return
            # file by file: at no moment is there none, and who maps the old pixels keeps them
            for name in ("pixels.npy", "manifest.json"):
                (beside / name).replace(home / name)
            _sync_folder(home)
        _sync_folder(home.parent)


def _sync_folder(folder: Path) -> None:
    """Bring a rename to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sweep(cache_dir: Path) -> None:
    """Remove what killed builds have left."""
    for left in cache_dir.glob(".building-*"):
        with suppress(FileNotFoundError):  # its builder has just finished
            written = max(path.stat().st_mtime for path in (left, *left.glob("*")))
            if time.time() - written > DEAD_AFTER_S:
                shutil.rmtree(left, ignore_errors=True)

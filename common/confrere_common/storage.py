"""Files that are either whole or absent: temporary name, flush to disk, rename."""

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from confrere_common.errors import ConfigError

if TYPE_CHECKING:  # it loads torch, which who writes a file need not have in memory
    from confrere_common.pack import View


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file, 0600, that is put at *path*, flushed to the disk, when the block ends well.

    A reader, or a crash, sees the old file or the new one; where the block fails, the old one is
    left.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def atomic_write(path: Path, content: "bytes | Sequence[View]") -> None:
    """Put *content* at *path* so that a reader, or a crash, sees the old file or the new one.

    Content in several parts is written one after the other, and never lies in memory as a whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.writelines([content] if isinstance(content, bytes) else content)


def atomic_folder(path: Path, fill: Callable[[Path], None], *, durable: bool = True) -> None:
    """Let *fill* write a folder's files, then rename the folder to *path*, replacing what is there.

    A *durable* folder is flushed to the disk before the rename.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        fill(part)
        if durable:
            # At once: a disk's journal takes them together, in a third of the time.
            with ThreadPoolExecutor() as pool:
                list(pool.map(_sync, [*part.iterdir(), part]))
        remove_folder(path)
        part.rename(path)
    except BaseException:
        remove_folder(part)
        raise
    if durable:
        sync_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder of plain files, and nothing else; no error if it is not there."""
    if path.is_dir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()


@contextmanager
def alone(path: Path, otherwise: str) -> Iterator[None]:
    """Hold the file *path* for this process alone; ConfigError *otherwise* when another does.

    The hold ends with the process, however that ends.
    """
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError([otherwise], str(path.parent)) from None
        yield


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename survives a power cut."""
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

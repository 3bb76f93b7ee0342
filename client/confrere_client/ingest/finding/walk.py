"""Folders and files as they really are: loops, barred doors, odd names; counted, never fatal."""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from confrere_common.errors import DataError

Above: TypeAlias = frozenset[tuple[int, int]]
"""Device and inode of the folders that one is in, and of those that are not entered."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A file; its size and its time tell whether it is still the one that was read."""

    path: Path
    """Where it can be read now; its name need not be UTF-8 (surrogates stand for odd bytes)."""

    place: str
    """What stays the same from run to run; members of archives have ``archive!/member``."""

    size: int
    mtime_ns: int


@dataclass(frozen=True, kw_only=True)
class Missed:
    """What cannot be taken, and why: a short fixed phrase."""

    place: str
    kind: str


def walk(roots: Iterable[Path], leave_out: Iterable[Path] = ()) -> Iterator[Found | Missed]:
    """Yield every file below *roots*, each once, in one order; memory is that of one branch.

    Links are followed unless they lead back to where one came from. Hidden files (a leading dot)
    are what systems leave behind (``.DS_Store``) and are left out without a word. *leave_out* are
    folders that are not entered: the data set itself. DataError when a root is not there.
    """
    barred = frozenset(_identity(path) for path in leave_out if path.exists())
    for root in roots:
        if not os.path.lexists(root):
            raise DataError(f"there is nothing at '{printed(root)}'.")
        yield from _below(Path(os.path.abspath(root)), barred)  # noqa: PTH100  (links stay)


def printed(path: Path | str) -> str:
    """Return a path as a terminal or a UTF-8 file can show it."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _below(root: Path, barred: Above) -> Iterator[Found | Missed]:
    """Yield what lies at and below *root*; a stack, since folders may be thousands deep."""
    left: list[tuple[str, Above]] = [(str(root), barred)]  # text: a folder may hold a million names
    while left:
        name, above = left.pop()
        path = Path(name)
        try:
            known = path.stat()
            if not stat.S_ISDIR(known.st_mode):
                yield _file(path, known)
                continue
            here = (known.st_dev, known.st_ino)
            if here in above:
                if path.is_symlink():
                    yield Missed(place=str(path), kind="link that leads back")
                continue
            names = sorted(os.listdir(path), reverse=True)  # noqa: PTH208  (names, no objects)
        except OSError as fault:
            yield Missed(place=str(path), kind=_reason(path, fault))
            continue
        inside = above | {here}
        left += [(os.path.join(path, one), inside) for one in names if not one.startswith(".")]  # noqa: PTH118


def _file(path: Path, known: os.stat_result) -> Found | Missed:
    place = str(path)
    if not stat.S_ISREG(known.st_mode):
        return Missed(place=place, kind="neither file nor folder")
    if known.st_size == 0:
        return Missed(place=place, kind="empty file")
    return Found(path=path, place=place, size=known.st_size, mtime_ns=known.st_mtime_ns)


def _identity(path: Path) -> tuple[int, int]:
    known = path.stat()
    return known.st_dev, known.st_ino


def _reason(path: Path, fault: OSError) -> str:
    match fault:
        case PermissionError():
            return "may not be read"
        case FileNotFoundError() if path.is_symlink():
            return "link to nothing"
        case OSError(errno=errno.ELOOP):
            return "link that leads back"
        case OSError(errno=errno.ENAMETOOLONG):
            return "name is too long"
    return "cannot be opened"

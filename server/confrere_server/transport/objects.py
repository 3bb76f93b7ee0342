"""Objects on their way, in files: the server's memory does not grow with the sites."""

from pathlib import Path
from tempfile import TemporaryFile
from threading import get_ident
from typing import BinaryIO

from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore

SMALL = 4096
"""Bytes up to which an object stays in memory: a file would cost more than it saves."""


class ObjectFiles(InMemoryObjectStore):
    """Flower's store of objects with its large contents in a folder, which it empties at start.

    What lies there is on its way: a round that is cut off is asked anew, so nothing is kept.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(verify=True)
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in folder.iterdir():
            left.unlink()

    def put(self, object_id: str, object_content: bytes) -> None:
        """Keep an object that was announced, after checking that its name is its digest."""
        super().put(object_id, object_content)
        if len(object_content) <= SMALL:
            return
        path = self._path(object_id)
        # Two sites may bring equal content at the same moment: each writes a file of its own.
        part = path.with_suffix(f".{get_ident()}.part")
        part.write_bytes(object_content)
        part.replace(path)
        with self.lock_store:
            if object_id in self.store:
                self.store[object_id].content = b""
            else:  # deleted meanwhile
                path.unlink(missing_ok=True)

    def get(self, object_id: str) -> bytes | None:
        """Return an object, empty while it is announced only, None when it is unknown."""
        with self.lock_store:
            entry = self.store.get(object_id)
            if entry is None:
                return None
            if entry.content or not entry.is_available:
                return entry.content
            return self._path(object_id).read_bytes()

    def spare(self) -> BinaryIO:
        """Open a file beside the objects that is gone when it is closed."""
        return TemporaryFile(dir=self._folder)

    def delete(self, object_id: str) -> None:
        """Remove an object and what only it refers to."""
        with self.lock_store:
            before = self._below(object_id)
            super().delete(object_id)
            for name in before:
                if name not in self.store:
                    self._path(name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove everything."""
        with self.lock_store:
            for name in self.store:
                self._path(name).unlink(missing_ok=True)
            super().clear()

    def whole(self, object_id: str) -> bool:
        """Return whether an object and all that it refers to are here."""
        with self.lock_store:
            below = self._below(object_id)
            return bool(below) and all(
                name in self.store and self.store[name].is_available for name in below
            )

    def _below(self, object_id: str) -> set[str]:
        """Return an object and all that it refers to, empty when it is unknown."""
        # Each once, and not as Flower's tree, which sites can make double at every level.
        found: set[str] = set()
        due = [object_id] if object_id in self.store else []
        while due:
            name = due.pop()
            if name not in found:
                found.add(name)
                due += self.store[name].child_object_ids if name in self.store else []
        return found

    def _path(self, object_id: str) -> Path:
        return self._folder / object_id

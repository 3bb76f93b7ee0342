"""Objects on their way, in files: the server's memory does not grow with the sites."""

from collections.abc import Iterator
from pathlib import Path

from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
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
        part = path.with_suffix(".part")
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

    def delete(self, object_id: str) -> None:
        """Remove an object and what only it refers to."""
        with self.lock_store:
            before = set(self._below(object_id))
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
            if object_id not in self.store:
                return False
            tree = self.get_object_tree(object_id)
            return all(
                self.store[node.object_id].is_available for node in iterate_object_tree(tree)
            )

    def _below(self, object_id: str) -> Iterator[str]:
        entry = self.store.get(object_id)
        if entry is not None:
            yield object_id
            for child in entry.child_object_ids:
                yield from self._below(child)

    def _path(self, object_id: str) -> Path:
        return self._folder / object_id

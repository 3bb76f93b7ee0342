"""Images in a folder, at any depth; the folders at its top may be classes, or splits."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import Field

from confrere_client.data.catalog import SPLITS
from confrere_client.data.decode import SUFFIXES, decode_image
from confrere_client.data.fingerprint import content, known
from confrere_client.source import Record, Source
from confrere_common.errors import DataError
from confrere_common.section import section

Place = tuple[str, PurePosixPath]
"""The split of an image, and where it lies below that."""


class Folder(Source):
    """Every image counts as its own patient: a table (`catalog`) can say more."""

    @section
    class Config:
        """Where the images are."""

        path: Annotated[str, Field(min_length=1)]
        """The folder. Hidden files are left out. If the folders at its top are called train, val
        or test, they are the splits and the classes lie below them."""

        labels: Literal["auto", "folders", "none"] = "auto"
        """Whether top folders are classes; auto: if more than one of them holds images."""

    def records(self) -> Sequence[Record]:
        """List the files that are called like an image, by name."""
        root = self._root()
        paths = sorted(_image_paths(root))
        if not paths:
            raise DataError(
                f"the folder '{self.config.path}' holds no image. Looked at every depth for "
                f"{', '.join(SUFFIXES)}."
            )
        places = _places(paths)
        labels = _labels([place for _, place in places], self.config.labels)
        return [
            Record(
                name=str(path),
                decode=partial(decode_image, root / path),
                patient=str(path),
                split=split,
                label=label,
            )
            for path, (split, _), label in zip(paths, places, labels, strict=True)
        ]

    def fingerprint(self) -> Iterator[bytes]:
        """Yield what is known of each image, then its file."""
        for record in self.records():
            yield known(record)
            yield from content(self._root() / record.name)

    def _root(self) -> Path:
        root = self.folder / Path(self.config.path).expanduser()
        if not root.is_dir():
            raise DataError(
                f"there is no folder '{self.config.path}' (paths start at the run's file)."
            )
        return root


def _image_paths(root: Path) -> Iterator[PurePosixPath]:
    """Yield what lies below *root* and ends like an image."""
    for path in root.rglob("*"):
        below = PurePosixPath(path.relative_to(root).as_posix())
        hidden = any(part.startswith(".") for part in below.parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            yield below


def _places(paths: Sequence[PurePosixPath]) -> list[Place]:
    """Return the split of each image and its path below it; no split unless all tops are one."""
    if not all(len(path.parts) > 1 and path.parts[0].lower() in SPLITS for path in paths):
        return [("", path) for path in paths]
    return [(SPLITS[path.parts[0].lower()], PurePosixPath(*path.parts[1:])) for path in paths]


def _labels(paths: Sequence[PurePosixPath], how: str) -> list[str]:
    """Return the class of each image, '' for none."""
    tops = [path.parts[0] if len(path.parts) > 1 else "" for path in paths]
    classes = how == "folders" or (how == "auto" and len(set(tops) - {""}) > 1)
    return tops if classes else [""] * len(paths)

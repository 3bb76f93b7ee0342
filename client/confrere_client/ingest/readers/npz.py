"""Arrays of images in one .npz, as MedMNIST lays them out: train_images, train_labels, ..."""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from confrere_client.ingest.boundary import guarded
from confrere_client.ingest.reader import Exam, Part, Reader, Skipped
from confrere_client.source import Record
from confrere_client.sources.npz import Npz as Archive
from confrere_common.errors import ConfrereError

DAMAGED = (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError)


class Npz(Reader):
    """Every image is an exam of its own; labels, patients and splits stand beside the images."""

    def claims(self, head: bytes, file: Path) -> bool:
        """Say whether the file is a zip of arrays and nothing else."""
        if not head.startswith(b"PK\x03\x04"):
            return False
        try:
            with zipfile.ZipFile(file) as archive:
                names = archive.namelist()
        except DAMAGED:
            return False
        return bool(names) and all(name.endswith(".npy") for name in names)

    def index(self, file: Path) -> Sequence[Part]:
        """Return one part for all images; the patients are told with the exams."""
        with guarded("array is damaged"):
            try:
                records = _records(file, file.stat().st_mtime_ns)
            except ConfrereError:
                raise Skipped("arrays that are no images") from None
            names = tuple(sorted({one.patient for one in records if one.patient_known}))
            return [Part(file=file, group=str(file), names=names, nbytes=_largest(file))]

    def load(self, parts: Sequence[Part], options: Mapping[str, Any]) -> Iterator[Exam]:  # noqa: ARG002
        """Yield the images in order; Skipped when an array is damaged, wherever."""
        file = parts[0].file
        for record in _records(file, file.stat().st_mtime_ns):
            with guarded("array is damaged"):
                pixels = record.decode()
            yield Exam(
                pixels=pixels,
                suffix=record.name,
                label=record.label,
                split=record.split,
                patient=record.patient if record.patient_known else "",
            )


@lru_cache(maxsize=1)
def _records(file: Path, changed_ns: int) -> Sequence[Record]:  # noqa: ARG001  (part of the key)
    return Archive(Archive.Config(path=str(file)), Path()).records()


def _largest(file: Path) -> int:
    """Return how many bytes the largest image takes, by the arrays' headers."""
    largest = 0
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            with archive.open(name) as stream:
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0
                read = np.lib.format.read_array_header_2_0 if version == (2, 0) else read
                shape, _, dtype = read(stream)
            if len(shape) > 2:
                largest = max(largest, int(np.prod(shape[1:])) * dtype.itemsize)
    return largest

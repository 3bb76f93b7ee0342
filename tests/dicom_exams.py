"""The reader of DICOM asked for the exams of files, or for why it skips them."""

from pathlib import Path
from typing import Any

import dicom_files as made
import numpy as np
import pytest

from confrere_client.ingest.reader import READERS, Exam, Part, Skipped

READER = READERS.member("dicom")()


def parts_of(*files: Path) -> list[Part]:
    found = [part for file in files for part in READER.index(file)]
    assert len({part.group for part in found}) == 1
    return sorted(found, key=lambda part: part.order)


def exams_of(*files: Path, **options: Any) -> list[Exam]:
    return list(READER.load(parts_of(*files), options))


def exam_of(*files: Path) -> Exam:
    (exam,) = exams_of(*files)
    return exam


def kind_of(*files: Path, **options: Any) -> str:
    with pytest.raises(Skipped) as skipped:
        exams_of(*files, **options)
    return skipped.value.kind


def picture(path: Path, pixels: Any, modality: str = "CR", **values: Any) -> Path:
    ds = made.dataset(np.asarray(pixels), Modality=modality, SOPClassUID=made.CR, **values)
    return made.written(ds, path / "picture.dcm")

"""What becomes of the real broken files of pydicom, nibabel and panimg, where they are at hand."""

import warnings
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from confrere_client.ingest.reader import (
    HEAD_BYTES,
    READERS,
    TECHNICAL,
    Exam,
    Part,
    Reader,
    Skipped,
)

FOLDERS = ("ingest_dicom_pydicom", "ingest_nifti_nibabel", "ingest_panimg")
Outcome = list[Exam] | str


def read_all(folder: Path) -> Mapping[str, Outcome]:
    """Return what came of every file (by name; of a series, of its first), as `prepare` reads."""
    made: list[Reader] = [READERS.member(name)() for name in READERS.names()]
    readers = sorted(made, key=lambda reader: reader.last_resort)
    found: dict[str, Outcome] = {}
    groups: dict[tuple[str, int], tuple[Reader, list[Part]]] = defaultdict(lambda: (readers[0], []))
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        head = file.read_bytes()[:HEAD_BYTES]
        reader = next((reader for reader in readers if reader.claims(head, file)), None)
        try:
            for part in reader.index(file) if reader else ():
                groups.setdefault((part.group, part.index), (reader, []))[1].append(part)  # type: ignore[arg-type]
        except Skipped as skipped:
            found[file.name] = skipped.kind
    for reader, parts in groups.values():
        try:
            exams = list(reader.load(sorted(parts, key=lambda part: part.order), {"max_tiles": 2}))
            found.update(dict.fromkeys((part.file.name for part in parts), exams))
        except Skipped as skipped:
            found.update(dict.fromkeys((part.file.name for part in parts), skipped.kind))
    return found


@pytest.fixture(scope="module")
def outcomes(shared_data: Path) -> Mapping[str, Mapping[str, Outcome]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: read_all(shared_data / name) for name in FOLDERS}


def test_nothing_but_technical_tags_and_sound_pixels_come_out(
    outcomes: Mapping[str, Mapping[str, Outcome]],
) -> None:
    exams = [
        exam for found in outcomes.values() for e in found.values() if e != str(e) for exam in e
    ]

    assert len(exams) > 100
    for exam in exams:
        assert isinstance(exam, Exam)
        assert exam.pixels.ndim in (3, 4)
        assert exam.pixels.dtype in (np.float32, np.uint8, np.uint16)
        assert exam.tags.keys() <= set(TECHNICAL)
        assert len(exam.spacing_mm) in (0, exam.pixels.ndim - 1)


SKIPPED = {
    "rtplan.dcm": "radiotherapy object",
    "test-SR.dcm": "structured report",
    "waveform_ecg.dcm": "waveform",
    "liver_1frame.dcm": "segmentation",
    "DICOMDIR": "DICOMDIR",
    "6293": "localiser",
    "siemens_dwi_0.dcm.gz": "mosaic of slices",
    "JPEG2000-embedded-sequence-delimiter.dcm": "inconsistent size",
    "csa_slice_norm.dcm": "no pixel data",
    "row_major.dconn.nii": "too many axes",
    "nifti1.hdr": "no pixel data",
    "referring_to_system_file.mhd": "outside its folder",
    "image10x10x10.zraw": "part of another file",
    "Mirax2-Fluorescence-1.mrxs": "unreadable slide",
}


@pytest.mark.parametrize("name", SKIPPED)
def test_a_known_file_is_skipped_for_its_reason(
    outcomes: Mapping[str, Mapping[str, Outcome]], name: str
) -> None:
    assert [found[name] for found in outcomes.values() if name in found] == [SKIPPED[name]]


SHAPES = {
    "SC_rgb_jpeg.dcm": (3, 256, 256),  # its header says explicit, and it is implicit
    "SC_rgb_jpeg_dcmtk.dcm": (3, 100, 100),
    "zipMR.gz": (1, 64, 64),
    "philips_mprage.dcm.gz": (1, 256, 256, 176),
    "JPGExtended.dcm": (1, 1024, 256),
    "SC_rgb_rle_16bit.dcm": (3, 100, 100),
    "examples_palette.dcm": (3, 350, 800),
    "image_dfl.dcm": (1, 512, 512),
    "volume.dcm": (1, 7, 512, 512),
    "anatomical.nii": (1, 25, 41, 33),
    "test.mgz": (1, 3, 4, 5),
    "image10x11x12.nrrd": (1, 12, 11, 10),
    "image10x10x10-extra-stuff.mhd": (1, 10, 10, 10),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_known_file_is_read(outcomes: Mapping[str, Mapping[str, Outcome]], name: str) -> None:
    (exams,) = [found[name] for found in outcomes.values() if name in found]

    assert isinstance(exams, list)
    assert exams[0].pixels.shape == SHAPES[name]

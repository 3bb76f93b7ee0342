"""What the reader of DICOM claims, what it skips, and why; no reason quotes the header."""

import gzip
import struct
from collections.abc import Mapping
from pathlib import Path

import dicom_files as made
import numpy as np
import pytest
from dicom_exams import READER, exam_of, exams_of, kind_of, picture
from pydicom import dcmread, uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from confrere_client.ingest.reader import HEAD_BYTES, TECHNICAL, Skipped

RNG = np.random.default_rng(7)


def test_a_file_without_preamble_is_recognised_and_read(tmp_path: Path) -> None:
    whole = made.written(made.ct_slice(7, 0), tmp_path / "whole").read_bytes()
    group_two = int.from_bytes(whole[140:144], "little")
    without_preamble, without_meta = tmp_path / "a", tmp_path / "b"
    without_preamble.write_bytes(whole[132:])
    without_meta.write_bytes(whole[144 + group_two :])

    for file in (without_preamble, without_meta):
        assert READER.claims(file.read_bytes()[:HEAD_BYTES], file)
        assert exam_of(file).pixels.shape == (1, 8, 6)


@pytest.mark.parametrize("head", [b"", b"\x89PNG\r\n\x1a\n" + b"\0" * 200, b"II*\0" + b"\1" * 300])
def test_other_files_are_not_claimed(head: bytes) -> None:
    assert not READER.claims(head, Path("x.dcm"))


def test_text_that_the_header_admits_is_told(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 255, (4, 4), np.uint8)

    exam = exam_of(picture(tmp_path, pixels, BurnedInAnnotation="YES"))

    assert exam.warnings == ("burnt-in text admitted by the header",)


NO_IMAGE: Mapping[str, tuple[str, str]] = {
    "structured report": ("1.2.840.10008.5.1.4.1.1.88.11", "SR"),
    "radiotherapy object": ("1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT"),
    "presentation state": ("1.2.840.10008.5.1.4.1.1.11.1", "PR"),
    "key object selection": ("1.2.840.10008.5.1.4.1.1.88.59", "KO"),
    "waveform": ("1.2.840.10008.5.1.4.1.1.9.1.1", "ECG"),
    "encapsulated document": ("1.2.840.10008.5.1.4.1.1.104.1", "DOC"),
    "segmentation": ("1.2.840.10008.5.1.4.1.1.66.4", "SEG"),
}


@pytest.mark.parametrize("kind", NO_IMAGE)
def test_what_is_no_image_is_skipped_by_its_kind(tmp_path: Path, kind: str) -> None:
    sop, modality = NO_IMAGE[kind]
    ds = made.dataset(np.zeros((2, 2), np.uint8), SOPClassUID=sop, Modality=modality)

    assert kind_of(made.written(ds, tmp_path / "a.dcm")) == kind


def test_a_localiser_is_skipped(tmp_path: Path) -> None:
    ds = made.ct_slice(1, 0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])

    assert kind_of(made.written(ds, tmp_path / "a.dcm")) == "localiser"


def test_a_volume_whose_slices_lie_side_by_side_in_one_picture_is_skipped(tmp_path: Path) -> None:
    kinds = ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE", "ND", "MOSAIC"]
    ds = made.ct_slice(1, 0, Modality="MR", ImageType=kinds)

    assert kind_of(made.written(ds, tmp_path / "a.dcm")) == "mosaic of slices"


def test_a_secondary_capture_is_a_picture_whatever_its_modality(tmp_path: Path) -> None:
    ds = made.dataset(np.zeros((4, 4, 3), np.uint8), SOPClassUID=made.CAPTURE, Modality="CT")
    ds.PixelData = RNG.integers(0, 255, (4, 4, 3), np.uint8).tobytes()

    (part,) = READER.index(made.written(ds, tmp_path / "a.dcm"))

    assert part.modality == "sc"


@pytest.mark.parametrize(("rows", "frames"), [(65535, 1), (65535, 60000), (8, 2_000_000_000)])
def test_an_enormous_claim_is_refused_from_the_header(
    tmp_path: Path, rows: int, frames: int
) -> None:
    ds = made.ct_slice(1, 0, Rows=rows, Columns=rows, NumberOfFrames=frames)

    assert kind_of(made.written(ds, tmp_path / "a.dcm")) in ("truncated", "too large")


def test_a_compressed_frame_larger_than_its_header_is_not_decoded(tmp_path: Path) -> None:
    ds = made.dataset(RNG.integers(0, 4000, (64, 48), np.uint16), Modality="MR")
    ds.compress(uid.JPEG2000Lossless, generate_instance_uid=False)
    file = made.written(ds, tmp_path / "a.dcm")
    data = bytearray(file.read_bytes())
    at = data.index(b"\xff\x4f\xff\x51")
    struct.pack_into(">II", data, at + 8, 60_000, 60_000)
    file.write_bytes(data)

    assert kind_of(file) == "inconsistent size"


def test_a_deflated_bomb_does_not_inflate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = made.ct_slice(1, 0, TextValue="x" * 5_000_000)
    ds.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    file = made.written(ds, tmp_path / "a.dcm")
    monkeypatch.setattr("confrere_client.ingest.dicom.header.MAX_INFLATED", 1_000_000)

    assert file.stat().st_size < 100_000
    assert kind_of(file) == "too large"


def packed(file: Path, data: bytes | None = None) -> Path:
    made_of = file.with_suffix(".dcm.gz")
    made_of.write_bytes(gzip.compress(file.read_bytes() if data is None else data))
    return made_of


@pytest.mark.parametrize(
    "syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless, uid.DeflatedExplicitVRLittleEndian]
)
def test_a_packed_file_is_read_as_if_it_were_not(tmp_path: Path, syntax: uid.UID) -> None:
    ds = made.dataset(RNG.integers(0, 4000, (64, 48), np.uint16), Modality="MR")
    if syntax == uid.RLELossless:
        ds.compress(syntax, generate_instance_uid=False)
    ds.file_meta.TransferSyntaxUID = syntax
    plain = made.written(ds, tmp_path / "a.dcm")
    file = packed(plain)

    assert READER.claims(file.read_bytes()[:HEAD_BYTES], file)
    assert np.array_equal(exam_of(file).pixels, exam_of(plain).pixels)


def test_a_packed_file_that_is_torn_or_a_bomb_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = packed(made.written(made.ct_slice(1, 0, TextValue="x" * 5_000_000), tmp_path / "a.dcm"))
    whole = file.read_bytes()
    monkeypatch.setattr("confrere_client.ingest.dicom.header.MAX_INFLATED", 1_000_000)

    assert len(whole) < 100_000
    assert kind_of(file) == "too large"
    monkeypatch.undo()
    file.write_bytes(whole[: len(whole) // 2])
    assert kind_of(file) == "truncated"


@pytest.mark.parametrize("head", [b"name\tage\n" * 99, b"\0" * 600, b""])
def test_whatever_else_is_packed_is_not_claimed(head: bytes) -> None:
    assert not READER.claims(gzip.compress(head)[:HEAD_BYTES], Path("x.dcm.gz"))


@pytest.mark.parametrize("explicit", [True, False])
def test_a_header_that_is_wrong_on_how_values_are_written_costs_no_picture(
    tmp_path: Path, explicit: bool
) -> None:
    ds = made.dataset(RNG.integers(0, 4000, (64, 48), np.uint16), Modality="MR")
    syntaxes = (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian)
    heads, bodies = [], []
    for syntax in syntaxes if explicit else syntaxes[::-1]:
        ds.file_meta.TransferSyntaxUID = syntax
        ds = dcmread(made.written(ds, tmp_path / "a.dcm"))
        data = (tmp_path / "a.dcm").read_bytes()
        end = 144 + int.from_bytes(data[140:144], "little")
        heads.append(data[:end])
        bodies.append(data[end:])
    (tmp_path / "a.dcm").write_bytes(heads[0] + bodies[1])

    assert np.array_equal(exam_of(tmp_path / "a.dcm").pixels[0], ds.pixel_array)


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_a_truncated_file_is_skipped(tmp_path: Path, keep: float) -> None:
    ds = made.dataset(RNG.integers(0, 4000, (64, 64), np.uint16), Modality="MR")
    for name, syntax in (
        ("plain", None),
        ("packed", uid.JPEG2000Lossless),
        ("rle", uid.RLELossless),
    ):
        file = tmp_path / name
        whole = made.dataset(ds.pixel_array, Modality="MR")
        if syntax:
            whole.compress(syntax, generate_instance_uid=False)
        data = made.written(whole, file).read_bytes()
        file.write_bytes(data[: int(keep * len(data))])

        assert kind_of(file) in ("truncated", "no pixel data", "corrupt")


def test_a_file_without_pixels_is_skipped(tmp_path: Path) -> None:
    ds = made.ct_slice(1, 0)
    del ds.PixelData

    assert kind_of(made.written(ds, tmp_path / "a.dcm")) in ("no pixel data", "truncated")


def test_every_identifier_is_found_and_none_is_a_tag(tmp_path: Path) -> None:
    nested = Dataset()
    nested.ReferencedSOPInstanceUID, nested.PersonName = "1.9.8.7.6", "Hidden^Nurse"
    ds = made.ct_slice(
        1, 0, ManufacturerModelName="Scanner of Quarkbein", ConvolutionKernel="B30f",
        Manufacturer="SIEMENS Healthineers", BodyPartExamined="CHEST XAVER",
        ReferencedImageSequence=Sequence([nested]),
    )  # fmt: skip

    (part,) = READER.index(made.written(ds, tmp_path / "a.dcm"))

    assert part.patient == made.IDENTITY
    wanted = {"Quarkbein", "Xaver", made.IDENTITY, made.ACCESSION, made.BORN, "Hidden", "1.9.8.7.6"}
    assert wanted <= set(part.names)
    assert not any(name.startswith("1.2.840.10008.") for name in part.names)
    tags = part.extra["tags"]
    assert tags["vendor"] == "siemens"
    assert tags["kernel"] == "B30f"
    assert tags["body_part"] == "other"
    assert "model" not in tags
    assert tags.keys() <= set(TECHNICAL)


def test_a_reason_quotes_nothing_of_the_header(tmp_path: Path) -> None:
    ds = made.ct_slice(1, 0, RescaleSlope=1)
    file = made.written(ds, tmp_path / "a.dcm")
    data = file.read_bytes()

    for cut in range(140, len(data), 40):
        file.write_bytes(data[:cut])
        with pytest.raises(Skipped) as skipped:
            exams_of(file)
        assert not any(word in str(skipped.value) for word in ("Quark", "PAT-", "ACC9", "1957"))


def test_an_unreadable_file_is_skipped(tmp_path: Path) -> None:
    assert kind_of(tmp_path / "gone.dcm") == "unreadable"

"""DICOM's pixels are read as they were meant: every depth, coding, colour and way up."""

from pathlib import Path
from typing import Any

import dicom_files as made
import imagecodecs
import numpy as np
import pytest
from dicom_exams import exam_of, picture
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder, set_pixel_data

from confrere_client.ingest.dicom.jpeg import register

RNG = np.random.default_rng(7)


def test_monochrome1_is_turned_and_its_padding_stays_dark(tmp_path: Path) -> None:
    pixels = np.array([[0, 10], [250, 255]], np.uint8)
    values = {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 0}

    exam = exam_of(picture(tmp_path, pixels, **values))

    assert exam.pixels.tolist() == [[[0, 245], [5, 0]]]
    assert exam.pixels.dtype == np.uint8


def test_a_modality_table_is_for_what_is_stored_and_not_for_its_inverse(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [4, 0, 16], "OD"
    table.add_new("LUTData", "US", [0, 10, 40, 90])
    values = {"PhotometricInterpretation": "MONOCHROME1", "ModalityLUTSequence": [table]}

    exam = exam_of(picture(tmp_path, np.array([[0, 1], [2, 3]], np.uint8), **values))

    assert exam.pixels.tolist() == [[[90, 80], [50, 0]]]


def test_hounsfield_units_do_not_turn_with_the_display(tmp_path: Path) -> None:
    ds = made.ct_slice(7, 0, PhotometricInterpretation="MONOCHROME1")

    exam = exam_of(made.written(ds, tmp_path / "a.dcm"))

    assert exam.pixels[0, 5, 5] == 7 - 1000


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.uint32, np.int32])
def test_any_depth_is_read_as_it_was_written(tmp_path: Path, dtype: Any) -> None:
    limits = np.iinfo(dtype)
    pixels = RNG.integers(max(limits.min, -(1 << 22)), min(limits.max, 1 << 22), (6, 5)).astype(
        dtype
    )

    exam = exam_of(picture(tmp_path, pixels))

    assert np.array_equal(exam.pixels[0], pixels)


def test_float_pixels_are_read(tmp_path: Path) -> None:
    pixels = RNG.normal(size=(4, 6)).astype(np.float32)
    ds = made.dataset(np.zeros((4, 6), np.uint16), Modality="MR", BitsAllocated=32)
    del ds.PixelData, ds.BitsStored, ds.HighBit, ds.PixelRepresentation
    ds.FloatPixelData = pixels.tobytes()

    exam = exam_of(made.written(ds, tmp_path / "a.dcm"))

    assert np.array_equal(exam.pixels[0], pixels)


LOSSLESS = (uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless)


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.name)
def test_lossless_syntaxes_give_back_every_value(tmp_path: Path, syntax: uid.UID) -> None:
    pixels = RNG.integers(0, 4000, (64, 48), np.uint16)
    ds = made.dataset(pixels, Modality="MR")
    ds.compress(syntax, generate_instance_uid=False)

    exam = exam_of(made.written(ds, tmp_path / "a.dcm"))

    assert np.array_equal(exam.pixels[0], pixels)


def encapsulated(path: Path, pixels: Any, codestream: bytes, syntax: uid.UID, **more: Any) -> Path:
    ds = made.dataset(pixels, Modality="MR", **more)
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate([codestream])
    ds["PixelData"].VR = "OB"
    return made.written(ds, path / "a.dcm")


def test_high_throughput_jpeg_2000_gives_back_every_value(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 4000, (64, 48), np.uint16)
    stream = imagecodecs.htj2k_encode(pixels)

    exam = exam_of(encapsulated(tmp_path, pixels, stream, uid.HTJ2KLossless))

    assert np.array_equal(exam.pixels[0], pixels)


def test_lossless_jpeg_in_colour_gives_back_every_value(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (32, 48, 3), np.uint8)
    ds = made.dataset(pixels, Modality="OT", SOPClassUID=made.CAPTURE)
    ds.PixelData = encapsulate([imagecodecs.jpeg8_encode(pixels, lossless=True, colorspace="rgb",
                                                         outcolorspace="rgb")])  # fmt: skip
    ds.file_meta.TransferSyntaxUID = uid.JPEGLosslessSV1
    ds["PixelData"].VR = "OB"

    exam = exam_of(made.written(ds, tmp_path / "a.dcm"))

    assert np.array_equal(exam.pixels, np.moveaxis(pixels, -1, 0))


@pytest.mark.parametrize("plugin", ["", "confrere"])
def test_jpeg_is_read_with_and_without_the_plugin_under_the_gpl(
    tmp_path: Path, plugin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = RNG.integers(0, 4000, (64, 48), np.uint16)
    lossless = imagecodecs.ljpeg_encode(pixels, bitspersample=12)
    extended = imagecodecs.jpeg8_encode(pixels, bitspersample=12, level=98)
    register()
    for syntax in (uid.JPEGLosslessSV1, uid.JPEGExtended12Bit):
        decoder = get_decoder(syntax)
        if plugin:
            monkeypatch.setattr(decoder, "_available", {plugin: decoder._available[plugin]})

    exact = exam_of(encapsulated(tmp_path, pixels, lossless, uid.JPEGLosslessSV1, BitsStored=12))
    near = exam_of(encapsulated(tmp_path, pixels, extended, uid.JPEGExtended12Bit, BitsStored=12))

    assert np.array_equal(exact.pixels[0], pixels)
    assert np.abs(near.pixels[0] - pixels).mean() < 2


@pytest.mark.parametrize(
    "syntax", [uid.DeflatedExplicitVRLittleEndian, uid.ImplicitVRLittleEndian], ids=lambda s: s.name
)
def test_other_encodings_of_the_data_set_are_read(tmp_path: Path, syntax: uid.UID) -> None:
    ds = made.ct_slice(7, 0)
    ds.file_meta.TransferSyntaxUID = syntax

    exam = exam_of(made.written(ds, tmp_path / "a.dcm"))

    assert exam.pixels[0, 5, 5] == 7 - 1000


def test_colour_is_rgb_whatever_it_was_stored_as(tmp_path: Path) -> None:
    from pydicom.pixels import convert_color_space

    rgb = np.zeros((4, 6, 3), np.uint8)
    rgb[..., 0], rgb[..., 2] = 200, 40
    ds = made.dataset(convert_color_space(rgb, "RGB", "YBR_FULL"), Modality="US")
    ds.PhotometricInterpretation = "YBR_FULL"

    exam = exam_of(made.written(ds, tmp_path / "a.dcm"))

    assert exam.pixels.shape == (3, 4, 6)
    assert np.abs(exam.pixels.astype(int) - np.moveaxis(rgb, -1, 0)).max() <= 2


def palette(ds: Dataset, red: np.ndarray[Any, Any], blue: np.ndarray[Any, Any]) -> Dataset:
    ds.PhotometricInterpretation = "PALETTE COLOR"
    for name, table in (("Red", red), ("Green", blue), ("Blue", blue)):
        setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(ds, f"{name}PaletteColorLookupTableData", table.astype("<u2").tobytes())
    return ds


def test_a_palette_gives_colour_and_a_grey_one_grey(tmp_path: Path) -> None:
    ramp = np.arange(256) * 257
    pixels = np.array([[0, 255], [128, 3]], np.uint8)
    colour = palette(made.dataset(pixels, Modality="US"), ramp, ramp[::-1])
    grey = palette(made.dataset(pixels, Modality="US"), ramp, ramp)

    coloured = exam_of(made.written(colour, tmp_path / "a.dcm"))
    plain = exam_of(made.written(grey, tmp_path / "b.dcm"))

    assert coloured.pixels[:, 0, 1].tolist() == [255, 0, 0]
    assert plain.pixels.tolist() == [pixels.tolist()]


@pytest.mark.parametrize(
    ("ways", "turn"),
    [
        (["L", "F"], lambda a: a),
        (["R", "F"], lambda a: a[:, ::-1]),
        (["L", "H"], lambda a: a[::-1]),
        (["F", "L"], lambda a: a.T),
    ],
)
def test_a_radiograph_stands_upright(tmp_path: Path, ways: list[str], turn: Any) -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)

    exam = exam_of(picture(tmp_path, pixels, PatientOrientation=ways, ImageLaterality="L"))

    assert np.array_equal(exam.pixels[0], turn(pixels))
    assert exam.tags["orientation"] == "LF"
    assert exam.tags["laterality"] == "l"


def test_pixels_of_a_known_aspect_become_square(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 255, (10, 20), np.uint8)

    exam = exam_of(picture(tmp_path, pixels, PixelAspectRatio=["2", "1"]))

    assert exam.pixels.shape == (1, 20, 20)


def test_set_pixel_data_of_pydicom_reads_back(tmp_path: Path) -> None:
    ds = made.ct_slice(1, 0)
    set_pixel_data(ds, np.full((8, 6), 77, np.uint16), "MONOCHROME2", 12)

    assert exam_of(made.written(ds, tmp_path / "a.dcm")).pixels.max() == 77 - 1000

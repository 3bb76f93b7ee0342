"""Radiographs are shown by the window or table of their file, measures by what they mean."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import dicom_files as made
import numpy as np
import pytest
from dicom_exams import exam_of, exams_of, picture
from numpy.typing import NDArray
from preparing import order, parent, prepared
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import apply_voi_lut

from confrere_client.ingest.keeping.book import Book
from confrere_client.ingest.keeping.dataset import open_dataset
from confrere_client.ingest.prepare import prepare, private_folder
from confrere_client.ingest.preprocess import Config, fit_exam
from confrere_client.ingest.preprocess_plan import Plan
from confrere_client.ingest.reader import Exam, Voi
from confrere_client.ingest.shaping.voi import FUNCTIONS, shown
from confrere_common.errors import DataError

WHOLE = Plan(image_px=None)
RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def levels(exam: Exam, **knobs: Any) -> tuple[NDArray[Any], dict[str, Any]]:
    pixels, record = fit_exam(exam, WHOLE, Config(crop_foreground=False, **knobs))
    return pixels, record["scale"]


def table(entries: Any, first: int = 0, bits: int = 12, dtype: str = "<u2") -> list[Dataset]:
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 65536, first, bits]
    item.add_new("LUTData", "OW", np.asarray(entries).astype(dtype).tobytes())
    return [item]


def of_pydicom(file: Path) -> NDArray[np.float64]:
    """Return what pydicom shows of a file, its range as 0 to 1."""
    ds = dcmread(file)
    seen = apply_voi_lut(ds.pixel_array, ds).astype(np.float64)
    return np.asarray((seen - seen.min()) / np.ptp(seen))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_window_shows_what_pydicom_does(tmp_path: Path, function: str) -> None:
    values = {"WindowCenter": 2000, "WindowWidth": 800, "VOILUTFunction": function}
    file = picture(tmp_path, RAMP, "DX", BitsStored=12, HighBit=11, **values)

    seen, record = levels(exam_of(file))

    assert np.abs(seen[0] / 65535 - of_pydicom(file)).max() < 1e-3
    assert record["kind"] == "file's window"
    assert (record["centre"], record["width"]) == (2000, 800)


@pytest.mark.parametrize("kind", ["OW", "US"])
def test_a_table_goes_before_a_window_and_shows_what_pydicom_does(
    tmp_path: Path, kind: str
) -> None:
    curve = 4095 / (1 + np.exp(-(np.arange(3000) - 1500) / 400))
    lut = table(curve, first=500)
    if kind == "US":
        lut[0].add_new("LUTData", "US", curve.astype(int).tolist())
    values = {"VOILUTSequence": lut, "WindowCenter": 9, "WindowWidth": 8}
    file = picture(tmp_path, RAMP, "MG", BitsStored=12, HighBit=11, **values)

    exam = exam_of(file)

    assert np.abs(shown(exam.pixels, exam.voi)[0] - of_pydicom(file)).max() < 1e-3  # type: ignore[arg-type]
    assert levels(exam)[1]["kind"] == "file's table"


@pytest.mark.parametrize("dtype", ["<u2", "u1"])
def test_a_table_of_8_bits_has_a_place_for_each_of_many_values(tmp_path: Path, dtype: str) -> None:
    values = {"VOILUTSequence": table(np.arange(4096) // 16, bits=8, dtype=dtype)}

    seen, _ = levels(exam_of(picture(tmp_path, RAMP, "DX", **values)))

    assert np.abs(seen[0] / 65535 - RAMP / 4096).max() < 0.005  # pydicom: 255 begins anew


@pytest.mark.parametrize("how", [{"WindowCenter": 1000, "WindowWidth": 1500}, "table"])
def test_a_window_is_for_what_was_before_monochrome1_was_turned(tmp_path: Path, how: Any) -> None:
    curve = np.clip(np.arange(4096) - 250, 0, 1500)
    values = {"VOILUTSequence": table(curve)} if how == "table" else how
    common = {"BitsStored": 12, "HighBit": 11, "RescaleSlope": 2, "RescaleIntercept": -100}
    plain = picture(tmp_path, RAMP // 4, "CR", **common, **values)
    upright, _ = levels(exam_of(plain))
    turned = {**common, **values, "PhotometricInterpretation": "MONOCHROME1"}

    inverse, _ = levels(exam_of(picture(tmp_path, RAMP // 4, "CR", **turned)))

    assert np.abs(inverse.astype(int) + upright - 65535).max() <= 40


def test_two_radiographs_that_differ_in_their_window_become_two_pictures(tmp_path: Path) -> None:
    windows = {"wide": (500, 1000), "narrow": (300, 400), "absurd": (100, 50)}
    source = parent(tmp_path / "in")
    for at, (name, (centre, width)) in enumerate(windows.items()):
        ds = made.dataset(
            RAMP % 1000, at, Modality="DX", SOPClassUID=made.CR, WindowCenter=centre,
            WindowWidth=width,
        )  # fmt: skip
        made.written(ds, source / f"{name}.dcm")

    _, dataset = prepared(tmp_path)

    rows = list(dataset.rows())
    assert len({row["digest"] for row in rows}) == 3
    scales = [json.loads(row["preprocessing"])["scale"] for row in rows]
    assert {scale["width"] for scale in scales if "width" in scale} == {1000, 400}
    assert {scale["kind"] for scale in scales if "ends" in scale} == {
        "percentiles (its window shows nothing)"
    }
    assert dataset.manifest["shaping"]["window"] == "stored"
    assert dataset.manifest["preprocessing"]["dx: file's window"] == 2


def test_by_percentiles_no_window_counts(tmp_path: Path) -> None:
    exam = exam_of(picture(tmp_path, RAMP, "DX", WindowCenter=900, WindowWidth=800))

    seen, record = levels(exam, window="percentile")

    assert np.array_equal(seen, levels(replace(exam, voi=None))[0])
    assert record["kind"] == "percentiles"


def test_pictures_of_8_bits_keep_8_bits_and_their_own_window(tmp_path: Path) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)

    dim, record = levels(exam_of(picture(tmp_path, pixels, WindowCenter=128, WindowWidth=128)))
    same, _ = levels(exam_of(picture(tmp_path, pixels, WindowCenter=128, WindowWidth=256)))
    nothing, told = levels(exam_of(picture(tmp_path, pixels, WindowCenter=900, WindowWidth=9)))

    assert dim.dtype == np.uint8
    assert dim[0].ravel()[[0, 64, 128, 192, 255]].tolist() == [0, 0, 129, 255, 255]
    assert record["kind"] == "file's window"
    assert np.array_equal(same[0], pixels)
    assert np.array_equal(nothing[0], pixels)
    assert told["kind"] == "as stored (its window shows nothing)"


def test_a_mammogram_is_shown_by_its_window_and_all_but_the_breast_is_black() -> None:
    image = np.full((1, 200, 150), 10, np.uint16)
    image[0, 40:160, :80] = np.random.default_rng(1).integers(600, 1400, (120, 80))
    image[0, 5:20, 120:145] = 4000  # a lead marker
    exam = Exam(pixels=image, tags={"modality": "mg"}, voi=Voi(centre=1000, width=1000))

    seen, record = levels(exam)

    assert seen[0, 10, 130] == 0
    wanted = (float(image[0, 100, 40]) - 500) / 999
    assert seen[0, 100, 40] / 65535 == pytest.approx(np.clip(wanted, 0, 1), abs=0.002)
    assert record["kind"] == "file's window"
    assert 0.2 < record["breast"] < 0.5


@pytest.mark.parametrize("modality", ["ct", "mr", "pt"])
def test_measures_are_scaled_by_what_they_mean(modality: str) -> None:
    image = RAMP[None].astype(np.float32)
    exam = Exam(pixels=image, tags={"modality": modality})

    assert np.array_equal(levels(exam)[0], levels(replace(exam, voi=Voi(centre=9, width=4000)))[0])


def test_each_frame_of_a_loop_has_its_own_window(tmp_path: Path) -> None:
    ds = made.dataset(np.stack([RAMP, RAMP]), Modality="RF", SOPClassUID=made.CR)
    ds.PerFrameFunctionalGroupsSequence = made.placed_frames([0, 2])
    for item, centre in zip(ds.PerFrameFunctionalGroupsSequence, (1000, 3000), strict=True):
        voi = Dataset()
        voi.WindowCenter, voi.WindowWidth = centre, 900
        item.FrameVOILUTSequence = [voi]

    exams = exams_of(made.written(ds, tmp_path / "a.dcm"))

    assert [exam.voi.centre for exam in exams if exam.voi] == [1000, 3000]


@pytest.mark.parametrize("modality", ["MG", "US"])
def test_a_volume_of_pictures_is_shown_by_its_window(tmp_path: Path, modality: str) -> None:
    ds = made.dataset(np.stack([RAMP, RAMP, RAMP]), Modality=modality, SOPClassUID=made.CR)
    ds.PerFrameFunctionalGroupsSequence = made.placed_frames([0, 2, 4])
    voi, shared = Dataset(), Dataset()
    voi.WindowCenter, voi.WindowWidth = 2000, 3000
    shared.FrameVOILUTSequence = [voi]
    ds.SharedFunctionalGroupsSequence = [shared]

    exam = exam_of(made.written(ds, tmp_path / "a.dcm"))

    assert exam.pixels.shape == (1, 3, 64, 64)
    assert levels(exam)[1]["kind"] == "file's window"


MALFORMED: dict[str, dict[str, Any]] = {
    "no width": {"WindowCenter": 900},
    "no breadth": {"WindowCenter": 900, "WindowWidth": 1},
    "unknown function": {"WindowCenter": 9, "WindowWidth": 9, "VOILUTFunction": "CUBIC"},
    "constant table": {"VOILUTSequence": table([7, 7, 7])},
    "empty sequence": {"VOILUTSequence": []},
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_malformed_is_no_reason_to_lose_a_picture(tmp_path: Path, name: str) -> None:
    exam = exam_of(picture(tmp_path, RAMP, "DX", **MALFORMED[name]))

    assert exam.voi is None


def test_a_table_that_is_shorter_than_it_says_does_not_count(tmp_path: Path) -> None:
    short = table(np.arange(100))
    short[0].LUTDescriptor = [4096, 0, 12]

    assert exam_of(picture(tmp_path, RAMP, "DX", VOILUTSequence=short)).voi is None


def test_a_data_set_from_before_windows_counted_is_not_mixed_with_one_after(
    tmp_path: Path,
) -> None:
    made.written(made.ct_slice(1, 0), parent(tmp_path / "in") / "a.dcm")
    wanted = Config(window="percentile")
    prepare(order(tmp_path, shaping=wanted))
    book = Book(private_folder(tmp_path / "out") / "book.sqlite")
    told = json.loads(book.fact("order", "null"))
    del told["shaping"]["window"]
    book.set_fact("order", json.dumps(told))
    book.keep()
    book.close()

    with pytest.raises(DataError, match=r'prepared otherwise.*"window": "percentile"'):
        prepare(order(tmp_path))

    prepare(order(tmp_path, shaping=wanted))
    assert open_dataset(tmp_path / "out", "out").manifest["exams"] == 1

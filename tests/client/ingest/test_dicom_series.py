"""Slices and frames become volumes with RAS axes, in order and in Hounsfield units, or skips."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import dicom_files as made
import numpy as np
import pytest
from dicom_exams import READER, exam_of, exams_of, kind_of, parts_of
from pydicom import uid

from confrere_client.ingest.reader import Skipped


def test_a_slice_has_hounsfield_units(tmp_path: Path) -> None:
    file = made.written(made.ct_slice(7, 0, WindowCenter=40, WindowWidth=400), tmp_path / "a.dcm")

    exam = exam_of(file)

    assert exam.pixels.dtype == np.float32
    assert exam.pixels[0, 5, 5] == 7 - 1000
    assert exam.spacing_mm == (0.5, 0.75)
    assert exam.pixels.shape == (1, 8, 6)
    assert exam.voi is None  # the plan's windows are for it, not its file's


def test_a_series_is_sorted_by_place_and_turned_to_ras(tmp_path: Path) -> None:
    files = list(made.ct_series(tmp_path, [30, 32, 34, 36]))

    exam = exam_of(*files)

    assert exam.pixels.shape == (1, 4, 8, 6)
    assert [float(plane[4, 4]) for plane in exam.pixels[0]] == [-1000, -999, -998, -997]
    assert exam.pixels[0, 0, -1, -1] == 100 - 1000  # the front is last in Y, the right last in X
    assert exam.spacing_mm == (2, 0.5, 0.75)
    assert exam.tags["orientation"] == "RAS"
    assert not exam.warnings


def test_parts_can_be_kept_as_json(tmp_path: Path) -> None:
    files = made.ct_series(tmp_path, [0, 2, 4], WindowCenter=40, WindowWidth=400)
    parts = parts_of(*files)

    kept = [replace(part, extra=json.loads(json.dumps(dict(part.extra)))) for part in parts]

    (fresh,), (again,) = READER.load(parts, {}), READER.load(kept, {})
    assert np.array_equal(fresh.pixels, again.pixels)
    assert fresh.spacing_mm == again.spacing_mm


@pytest.mark.parametrize("axes", [[0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1]])
def test_a_sagittal_or_coronal_series_gets_the_same_axes(tmp_path: Path, axes: list[int]) -> None:
    through = np.cross(axes[:3], axes[3:]).tolist()
    files = [
        made.written(
            made.ct_slice(
                at,
                0,
                ImageOrientationPatient=axes,
                ImagePositionPatient=[3 * at * n for n in through],
            ),
            tmp_path / f"{at}.dcm",
        )
        for at in range(1, 6)
    ]

    exam = exam_of(*files)

    assert exam.pixels.shape[1] == 8  # rows run from head to foot, so foot to head is Z
    assert sorted(exam.pixels.shape[2:]) == [5, 6]


def test_a_missing_slice_is_filled_in_and_told(tmp_path: Path) -> None:
    places = [float(2 * at) for at in range(12)]
    files = list(made.ct_series(tmp_path, places))
    del files[5]

    exam = exam_of(*files)

    assert exam.warnings == ("gap between slices",)
    assert exam.pixels.shape[1] == 12
    assert exam.pixels[0, 5, 4, 4] == pytest.approx(-995)


def test_a_series_that_lacks_too_much_is_skipped(tmp_path: Path) -> None:
    files = list(made.ct_series(tmp_path, [0, 2, 4, 20, 22, 24]))

    assert kind_of(*files) == "gap between slices"


def test_a_copy_of_a_slice_is_left_out_and_told(tmp_path: Path) -> None:
    files = list(made.ct_series(tmp_path, [0, 2, 4]))
    copy = tmp_path / "copy.dcm"
    copy.write_bytes(files[1].read_bytes())

    exam = exam_of(*files, copy)

    assert exam.pixels.shape[1] == 3
    assert exam.warnings == ("duplicate slice",)


def test_another_slice_at_a_taken_place_is_left_out_and_told(tmp_path: Path) -> None:
    files = list(made.ct_series(tmp_path, [0, 2, 4]))
    double = made.written(made.ct_slice(9, 2), tmp_path / "double.dcm")

    exam = exam_of(*files, double)

    assert exam.pixels.shape[1] == 3
    assert exam.warnings == ("duplicate slice",)


def test_time_points_become_volumes_of_their_own(tmp_path: Path) -> None:
    files = [
        made.written(
            made.ct_slice(3 * time + at, 2 * at, value=10 * time, TemporalPositionIdentifier=time),
            tmp_path / f"{time}-{at}.dcm",
        )
        for time in (1, 2)
        for at in range(3)
    ]

    exams = exams_of(*files)

    assert [exam.suffix for exam in exams] == ["v00", "v01"]
    assert [float(exam.pixels[0, 1, 4, 4]) for exam in exams] == [-990, -980]
    assert kind_of(*files, max_times=1) == "too many time points"


def test_a_gantry_tilt_is_undone_and_told(tmp_path: Path) -> None:
    tilted = [
        made.written(made.ct_slice(at, 2.0 * at, value=5), tmp_path / f"{at}.dcm")
        for at in range(5)
    ]
    for at, file in enumerate(tilted):
        ds = made.ct_slice(at, 2.0 * at, value=5)
        ds.ImagePositionPatient = [0, 0.5 * at, 2.0 * at]  # one row further back each time
        pixels = np.zeros((8, 6), np.int16)
        pixels[5 - at] = 500  # what lies straight above each other in the patient
        ds.PixelData = pixels.tobytes()
        made.written(ds, file)

    exam = exam_of(*tilted)

    assert exam.warnings == ("gantry tilt",)
    rows = {int(plane.max(axis=1).argmax()) for plane in exam.pixels[0]}
    assert len(rows) == 1


def test_a_few_slices_of_another_orientation_are_left_out_and_told(tmp_path: Path) -> None:
    files = list(made.ct_series(tmp_path, [0, 2, 4]))
    other = made.ct_slice(9, 0, ImageOrientationPatient=[0, 1, 0, 0, 0, -1])

    exam = exam_of(*files, made.written(other, tmp_path / "other.dcm"))

    assert exam.pixels.shape[1] == 3
    assert exam.warnings == ("mixed orientations",)


@pytest.mark.parametrize("odd", [{"Columns": 4, "Rows": 12}, {"PixelSpacing": [0.6, 0.75]}])
def test_a_slice_of_another_size_is_the_reason_and_not_the_gap_that_it_leaves(
    tmp_path: Path, odd: dict[str, Any]
) -> None:
    files = list(made.ct_series(tmp_path, [0, 2, 4, 6, 8, 10]))
    other = made.ct_slice(3, 6, **odd)
    made.written(other, files[3])

    with pytest.raises(Skipped, match="1 of 6 fit no other") as skipped:
        exam_of(*files)

    assert skipped.value.kind == "inconsistent slices"


def test_where_little_is_missing_a_slice_of_another_size_is_left_out_and_told(
    tmp_path: Path,
) -> None:
    files = list(made.ct_series(tmp_path, [2.0 * at for at in range(20)]))
    made.written(made.ct_slice(13, 14, Columns=4, Rows=12), files[7])

    exam = exam_of(*files)

    assert exam.pixels.shape[1] == 20
    assert exam.warnings == ("inconsistent slices", "gap between slices")


def test_slices_all_of_their_own_orientation_are_skipped(tmp_path: Path) -> None:
    axes = ([1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1])
    files = [
        made.written(made.ct_slice(n, 0, ImageOrientationPatient=a), tmp_path / f"{n}.dcm")
        for n, a in enumerate(axes)
    ]

    assert kind_of(*files) == "mixed orientations"


def test_a_file_torn_within_its_compressed_pixels_is_truncated_and_spares_its_series(
    tmp_path: Path,
) -> None:
    files = [
        made.written(_packed(made.ct_slice(at, 2.0 * at)), tmp_path / f"{at}.dcm")
        for at in range(1, 4)
    ]
    whole = files[2].read_bytes()
    files[2].write_bytes(whole[:-20])

    with pytest.raises(Skipped) as skipped:
        READER.index(files[2])

    assert skipped.value.kind == "truncated"
    assert exam_of(*files[:2]).pixels.shape[1] == 2


def _packed(ds: Any) -> Any:
    ds.compress(uid.RLELossless, generate_instance_uid=False)
    return ds


def test_a_loop_is_thinned_out(tmp_path: Path) -> None:
    loop = np.stack([np.full((4, 4), frame, np.uint8) for frame in range(30)])
    ds = made.dataset(loop, Modality="US", SOPClassUID=made.US_LOOP)

    exams = exams_of(made.written(ds, tmp_path / "a.dcm"), max_frames=3)

    assert [int(exam.pixels[0, 0, 0]) for exam in exams] == [0, 14, 29]
    assert len({exam.suffix for exam in exams}) == 3


def test_an_enhanced_object_becomes_a_sorted_volume(tmp_path: Path) -> None:
    frames = np.stack([np.full((4, 5), value, np.int16) for value in (3, 1, 2)])
    ds = made.dataset(frames, SOPClassUID=made.ENHANCED_CT)
    ds.PerFrameFunctionalGroupsSequence = made.placed_frames([6, 2, 4])

    exam = exam_of(made.written(ds, tmp_path / "a.dcm"))

    assert [float(plane[0, 0]) for plane in exam.pixels[0]] == [1, 2, 3]
    assert exam.spacing_mm == (2, 1, 1)


def test_one_broken_slice_skips_the_series(tmp_path: Path) -> None:
    files = list(made.ct_series(tmp_path, [0, 2, 4]))
    parts = parts_of(*files)
    files[1].write_bytes(files[1].read_bytes()[:-20])

    with pytest.raises(Skipped) as skipped:
        list(READER.load(parts, {}))

    assert skipped.value.kind == "truncated"

"""Boxes come to lie where their images do; what is no box is counted, and nothing crashes."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from confrere_client.data.boxes import cut, fitted, read_boxes, written
from confrere_client.data.images import open_images
from confrere_client.source import UnreadableImage
from confrere_common.family import Named


def test_a_box_takes_its_image_s_place() -> None:
    assert fitted((2, 0, 4, 4), (8, 4), (16, 16)) == [4, 4, 8, 12]


@pytest.mark.parametrize(
    ("corners", "reason"),
    [
        ((1, 1, 1, 5), "has no area"),
        ((5, 1, 1, 5), "has no area"),
        ((9, 1, 12, 5), "lies outside the frame"),
        ((1, 1, float("nan"), 5), "is not two corners of finite numbers"),
        ((1, 1, 5), "is not two corners of finite numbers"),
    ],
)
def test_what_is_no_box_says_why(corners: tuple[float, ...], reason: str) -> None:
    assert cut(corners, (8, 8)) == reason


def test_a_box_is_cut_at_the_frame() -> None:
    assert cut((-2, 1, 4, 99), (8, 6)) == (0, 1, 4, 6)


def test_a_cell_that_is_no_boxes_is_told() -> None:
    assert read_boxes('[["cell", 1, 2, 3, 4]]') == [("cell", (1, 2, 3, 4))]
    for text in ("no", "[1]", '[["cell", "x"]]', "{}x", "[[]]", '{"a": 1}'):
        with pytest.raises(UnreadableImage, match="boxes are not JSON"):
            read_boxes(text)


def test_a_name_may_stand_last_or_not_at_all_but_a_number_is_not_taken_for_one() -> None:
    assert read_boxes('[[1, 2, 3, 4, "7"]]') == [("7", (1, 2, 3, 4))]
    assert read_boxes("[[1, 2, 3, 4]]") == [("object", (1, 2, 3, 4))]
    assert read_boxes('[[1, 2, 3, 4, 5, 6, "cell"]]') == [("cell", (1, 2, 3, 4, 5, 6))]
    with pytest.raises(UnreadableImage, match="in quotes"):
        read_boxes("[[7, 1, 2, 3, 4]]")


def test_what_is_written_is_read_again() -> None:
    boxes = [("cell", (1.0, 2.0, 3.0, 4.0)), ("7", (0.5, 0.0, 3.0, 4.0))]

    assert read_boxes(written(boxes)) == boxes


def test_a_catalog_s_boxes_lie_beside_the_images(tmp_path: Path, paint: Any) -> None:
    cells = [[["rbc", 0, 0, 3, 3], ["wbc", 1, 1, 1, 2], ["wbc", 2, 2, 99, 4]], [], None]
    rows = ["path\tboxes"]
    for number, boxes in enumerate(cells):
        paint(tmp_path / f"{number}.png", seed=number)
        rows.append(f"{number}.png\t{'' if boxes is None else json.dumps(boxes)}")
    (tmp_path / "table.csv").write_text("\n".join(rows).replace('"', '""').replace(
        "\t[", '\t"[').replace("]\n", ']"\n'))  # fmt: skip

    images = open_images(
        Named(name="catalog", knobs={"path": "table.csv"}),
        folder=tmp_path, image_px=18, cache_dir=tmp_path / "cache",
    )  # fmt: skip

    assert images.has("boxes").tolist() == [True, True, False]
    assert images.boxes is not None
    assert images.boxes.names == ("rbc", "wbc")
    assert images.boxes.told["skipped"] == {"has no area": 1, "reaches beyond the frame": 1}
    found = images.known("boxes", np.array([0, 1])).numpy()
    assert found[0].tolist() == [[3, 0, 9, 6, 0], [7, 4, 15, 8, 1]]
    assert np.isnan(found[1]).all()


def test_the_degenerate_boxes_of_real_blood_smears_are_counted_and_the_others_kept(
    shared_data: Path,
) -> None:
    found: list[object] = []
    for file in sorted((shared_data / "blood_bccd_boxes/Annotations").glob("*.xml")):
        root = ElementTree.parse(file).getroot()  # noqa: S314  (our own files)
        frame = [int(root.findtext(f"size/{side}", "0")) for side in ("width", "height")]
        for box in root.iter("bndbox"):
            names = ("xmin", "ymin", "xmax", "ymax")
            found.append(cut([float(box.findtext(name, "nan")) for name in names], frame))

    refused = [reason for reason in found if isinstance(reason, str)]

    assert len(found) == 4888
    assert refused == ["has no area"] * 2

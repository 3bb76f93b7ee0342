"""Structures are outlined and boxed over sites, and where their masks and boxes come from."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tuned import lesions, short, tune

from confrere_client.evaluation.detection import FROC
from confrere_common.errors import DataError


def test_lesions_are_outlined_over_sites(tiny: Path, tmp_path: Path) -> None:
    run_file = lesions(tiny.parent, train={"batch": 16, "steps_per_round": 12, "lr": 0.01})

    report = tune(
        run_file, tmp_path / "out", task={"name": "segmentation", "width": 4},
        evaluation={"min_cell": 2}, run=short(3, floors="none"),
    )  # fmt: skip

    figures = report["arms"]["federated"]["figures"]
    assert figures["dice"]["mean"] > 0.4
    assert {"iou", "hd95 over diagonal"} <= figures.keys()
    lesion = report["arms"]["federated"]["structures"]["1"]
    assert lesion["cases"] == report["data"]["test_images"]
    assert lesion["dice"]["lower"] <= lesion["dice"]["median"] <= lesion["dice"]["upper"]
    assert len(lesion["missed"]) == len(lesion["invented"]) == 1
    assert "Invented" in (tmp_path / "out/report.html").read_text()
    assert report["data"]["classes"] == ["1"]
    counted = report["evaluation"]
    (structure,) = counted["structures"]
    exact = figures["dice where there is something"]["mean"]
    assert abs(structure["dice"] - exact) <= structure["error"]
    assert structure["images"] + structure.get("without", 0) <= report["data"]["test_images"]
    assert "Dice where it is" in (tmp_path / "out/report.html").read_text()


def test_what_outlined_lesions_starts_another_that_does(tiny: Path, tmp_path: Path) -> None:
    run_file = lesions(tiny.parent, train={"batch": 16, "steps_per_round": 12, "lr": 0.01})
    segmentation = {"name": "segmentation", "width": 4}
    tune(run_file, tmp_path / "first", task=segmentation, run=short(3, floors="none"))
    start = str(tmp_path / "first/encoder.safetensors")

    quick = short(1, floors="none", train={"steps_per_round": 1, "lr": 1e-5, "warmup": 0})
    told = {
        whole: tune(
            run_file, tmp_path / f"{whole}", task=segmentation, start=start, start_decoder=whole,
            run=quick,
        )
        for whole in (True, False)
    }  # fmt: skip

    dice = {key: one["arms"]["federated"]["figures"]["dice"]["mean"] for key, one in told.items()}
    assert dice[True] > dice[False]
    assert "and its decoder" in (run_file.parent / "said.txt").read_text()


def test_a_fine_tuning_learns_from_images_with_cavities(tiny: Path, tmp_path: Path) -> None:
    """Resection as augmentation (https://doi.org/10.1007/s11548-021-02420-2) of a task."""
    train = {"batch": 8, "steps_per_round": 2, "lr": 0.01}
    told = {}
    for cavities in (0.0, 1.0):
        changes = {"area": [0.8, 1], "cavity_probability": cavities}
        augment = {"modality": "dermatology", "changes": changes}
        run_file = lesions(tiny.parent, train=train, augment=augment)
        out = tmp_path / str(cavities)
        tune(
            run_file, out, task={"name": "segmentation", "width": 4},
            run=short(1, floors="none"),
        )  # fmt: skip
        told[cavities] = load_file(out / "encoder.safetensors")

    assert all(weight.isfinite().all() for weight in told[1.0].values())
    assert any(not torch.equal(told[0.0][name], told[1.0][name]) for name in told[0.0])


def test_lesions_are_boxed_over_sites(tiny: Path, tmp_path: Path) -> None:
    run_file = lesions(tiny.parent, train={"batch": 16, "steps_per_round": 20, "lr": 0.01})

    report = tune(
        run_file, tmp_path / "out", alone=True, task={"name": "detection", "width": 16},
        run=short(3, floors="none"),
    )  # fmt: skip

    figures = report["arms"]["tuned"]["figures"]
    assert figures["AP at 0.5"]["mean"] > 0.05
    found = [figures[name]["mean"] for name in FROC]
    assert len(found) == 7
    assert found == sorted(found)
    assert figures["FROC mean"]["mean"] == pytest.approx(np.mean(found))
    assert "FROC at 1/8" in (tmp_path / "out/report.html").read_text()
    assert report["data"]["classes"] == ["lesion"]


def test_a_detector_learns_from_boxes_of_a_prepared_data_set(tiny: Path, tmp_path: Path) -> None:
    from confrere_client.ingest.prepare import Order, prepare

    rng, cells = np.random.default_rng(0), ["path,patient,boxes"]
    (tmp_path / "in").mkdir()
    for number in range(24):
        image = rng.integers(0, 60, (48, 64), np.uint8)
        x, y = rng.integers(2, 36, 2).tolist()
        y = min(y, 26)
        image[y : y + 20, x : x + 20] += 180
        Image.fromarray(image).save(tmp_path / f"in/{number}.png")
        cells.append(f'in/{number}.png,p{number},"[[""cell"", {x}, {y}, {x + 20}, {y + 20}]]"')
    (tmp_path / "t.csv").write_text("\n".join(cells))
    prepare(Order(sources=(tmp_path / "in",), dataset=tmp_path / "set", table=tmp_path / "t.csv"))
    source = {"name": "prepared", "path": str(tmp_path / "set")}

    report = tune(
        tiny, tmp_path / "out", alone=True, task={"name": "detection", "width": 16},
        run=short(
            3, floors="none", data={"source": source, "image_px": 16, "channels": 1},
            train={"batch": 16, "steps_per_round": 20, "lr": 0.01},
            augment={"modality": "dermatology", "changes": {"area": [0.8, 1]}},
        ),
    )  # fmt: skip

    assert report["data"]["classes"] == ["cell"]
    assert report["data"]["preparation"]["image_px"] == 256
    card = json.loads((tmp_path / "out/encoder.json").read_text())
    assert card["preprocessing"]["prepared"]["scaling"] == ["not said: as stored"]
    assert report["arms"]["tuned"]["figures"]["AP at 0.5"]["mean"] > 0.5


def test_masks_without_classes_have_validation_patients_too(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "drawn"
    folder.mkdir()
    for number in range(12):
        image = np.random.default_rng(number).integers(0, 256, (16, 16), np.uint8)
        Image.fromarray(image).save(folder / f"{number}.png")
        np.save(folder / f"{number}.npy", (image > 99).astype(np.uint8))
    rows = [f"{number}.png,p{number},{number}.npy" for number in range(12)]
    (folder / "table.csv").write_text("\n".join(["path,patient,mask", *rows]))
    source = {"name": "catalog", "path": str(folder / "table.csv")}

    report = tune(
        tiny, tmp_path / "out", alone=True, task={"name": "segmentation", "width": 4},
        run=short(1, floors="none", data={"source": source, "image_px": 16, "channels": 1}),
    )  # fmt: skip

    assert set(report["courses"][0]["scores"]) == {"1"}
    assert not any("no validation patients" in said for said in report["warnings"])


def outlined(folder: Path, numbers: Callable[[int], Sequence[int]]) -> dict[str, Any]:
    """Return the source of 24 patients of two sites, on whom structures are outlined and boxed."""
    folder.mkdir()
    rows = ["path,patient,site,mask,boxes"]
    for number in range(24):
        image = np.random.default_rng(number).integers(0, 256, (16, 16), np.uint8)
        mask = np.zeros((16, 16), np.uint8)
        for place, kind in enumerate(numbers(number)):
            mask[4 * place : 4 * place + 4] = kind
        Image.fromarray(image).save(folder / f"{number}.png")
        np.save(folder / f"{number}.npy", mask)
        boxes = ", ".join(f'[""k{kind}"", 0, 0, 8, 8]' for kind in numbers(number))
        rows.append(f'{number}.png,p{number},{"ab"[number % 2]},{number}.npy,"[{boxes}]"')
    (folder / "table.csv").write_text("\n".join(rows))
    return {"name": "catalog", "path": str(folder / "table.csv")}


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"name": "segmentation", "width": 4}, "Site 'b' has no mask of 2: left out of its loss."),
        ({"name": "detection", "width": 8}, "Site 'b' has no box of k2: left out of its loss."),
    ],
)
def test_a_site_that_outlines_and_boxes_only_some_structures_is_named(
    tiny: Path, tmp_path: Path, task: dict[str, Any], said: str
) -> None:
    source = outlined(tmp_path / "drawn", lambda number: (1,) if number % 2 else (1, 2))

    report = tune(
        tiny, tmp_path / "out", task=task,
        run=short(1, floors="none", data={"source": source, "image_px": 16, "channels": 1}),
    )  # fmt: skip

    assert said in report["warnings"]
    counts = {site["site"]: list(site["classes"].values()) for site in report["sites"]}
    assert counts["b"][0] > counts["b"][1] == 0
    assert counts["a"][0] == counts["a"][1] > 0
    assert not any("finetune.classes is open" in one for one in report["warnings"])


def test_a_stray_number_in_a_mask_makes_classes_and_that_is_told(
    tiny: Path, tmp_path: Path
) -> None:
    source = outlined(tmp_path / "drawn", lambda number: (1, 7) if number == 5 else (1,))

    report = tune(
        tiny, tmp_path / "out", alone=True, task={"name": "segmentation", "width": 4},
        run=short(1, floors="none", data={"source": source, "image_px": 16, "channels": 1}),
    )  # fmt: skip

    assert report["data"]["classes"] == list("1234567")
    assert "Class '7' has fewer than 3 patients: nothing can be said of it." in report["warnings"]
    assert (
        "The highest number in a mask is 7, and at this size no mask holds 2, 3, 4, 5, 6."
        in report["warnings"]
    )
    assert sum("name finetune.classes" in one for one in report["warnings"]) == 1
    printed = (tiny.parent / "said.txt").read_text()
    assert printed.index("note: The highest number in a mask") < printed.index("pictures.html")
    with pytest.raises(DataError, match=r"a mask holds class 7, and finetune\.classes names 1"):
        tune(
            tiny, tmp_path / "again", alone=True, classes=["organ"],
            task={"name": "segmentation", "width": 4},
            run=short(1, floors="none", data={"source": source, "image_px": 16, "channels": 1}),
        )  # fmt: skip

"""What a small fine-tuning left is asked by the command, as a hospital asks it, task by task.

``predict.predict``: "Guarantee: no connection is opened, and nothing is written but in the order's
folder (and the image cache, for own normal images). Of a prepared data set nothing written names
anybody."
"""

import json
import shutil
import socket
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from asking import ask, table, told
from networks import fresh
from PIL import Image
from tiny_runs import tuning
from tuned import lesions, short, tune

from confrere_client.data.images import open_images
from confrere_client.data.masks import decode_mask
from confrere_client.evaluation.detection import iou
from confrere_client.finetune.judge import Exam, judge_of
from confrere_client.predict.predict import FILE
from confrere_client.source import open_source
from confrere_common.family import Named
from confrere_common.network import load_task
from confrere_common.release import load_release

LEARNED = {"batch": 16, "steps_per_round": 12, "lr": 0.01}


def pictures(folder: Path, count: int = 3, side: int = 20) -> Path:
    """Write pictures of noise; the folder's name is one that must not get about."""
    (folder / "SMITH^JOHN").mkdir(parents=True)
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (side, side + number), np.uint8)
        Image.fromarray(noise).save(folder / f"SMITH^JOHN/{number}.png")
    return folder


def answered_in_a_study(folder: Path, run_file: Path) -> np.ndarray:
    """Return what the judge of a study has the same network answer for the same images."""
    network = load_task(folder)
    named = Named(name="npz", knobs={"path": str(run_file.parent / "images.npz")})
    images = open_images(named, folder=folder, image_px=16, channels=1, cache_dir=folder / "cache")
    rows = np.arange(len(images))
    exam = Exam(
        run=network.run, images=images, learned=rows, asked=rows, device=torch.device("cpu")
    )
    return np.asarray(judge_of(network.run).answers(network.task, exam)["scores_NK"])


def test_a_classifier_tells_the_probability_of_each_class(tiny: Path, tmp_path: Path) -> None:
    tune(tiny, tmp_path / "tuned", alone=True, run=short(3, floors="none", train=LEARNED))

    said = ask(tmp_path / "tuned", tiny.parent / "images.npz", tmp_path / "answers")

    found = table(tmp_path / "answers/answers.csv")
    assert list(found) == ["id", "likeliest", "p(0)", "p(1)", "p(2)"]
    assert found["id"][:2] == ["train/0", "train/1"]
    scores = np.array([found[f"p({name})"] for name in "012"]).T
    assert np.allclose(scores.sum(1), 1, atol=1e-5)
    assert found["likeliest"] == [int(place) for place in scores.argmax(1)]
    assert np.allclose(scores, answered_in_a_study(tmp_path / "tuned", tiny), atol=1e-5)
    assert "classification of 60 images: answers.csv." in said
    assert "they stay in this folder, nothing was sent" in said
    made = json.loads((tmp_path / "answers" / FILE).read_text())
    assert (made["task"], made["images"]) == ("classification", 60)
    assert made["classes"] == ["0", "1", "2"]
    assert (tmp_path / "answers").stat().st_mode & 0o077 == 0


def test_findings_have_no_likeliest_and_tables_may_be_parquet(tmp_path: Path) -> None:
    release = fresh(tmp_path / "tuned", tuning(knobs={"kind": "multilabel"}))

    ask(release, pictures(tmp_path / "in"), tmp_path / "out", "--format", "parquet")

    found = pq.read_table(tmp_path / "out/answers.parquet")
    assert found.column_names == ["id", "p(a)", "p(b)", "p(c)"]
    assert found.num_rows == 3


def test_outlines_lie_on_the_images_at_their_own_size(tiny: Path, tmp_path: Path) -> None:
    run_file = lesions(tiny.parent, train=LEARNED)
    tune(
        run_file, tmp_path / "tuned", alone=True, task={"name": "segmentation", "width": 4},
        run=short(3, floors="none"),
    )  # fmt: skip
    knobs = {"modality": "lesion", "images": 12, "patients": 12, "image_px": 16, "seed": 5}
    (tmp_path / "in").mkdir()
    truth = {}
    source = open_source(Named(name="phantom", knobs=knobs), tmp_path)
    for number, record in enumerate(source.records()):
        colours = np.moveaxis(record.decode(), 0, -1)
        assert record.mask is not None
        wide = Image.fromarray(colours).resize((40, 40)).crop((0, 0, 40, 28 + number))
        wide.save(tmp_path / f"in/{number}.png")
        outline = Image.fromarray(record.mask().astype(np.uint8)).resize((40, 40), 0)
        truth[f"{number}.png"] = np.asarray(outline.crop((0, 0, 40, 28 + number)))

    ask(tmp_path / "tuned", tmp_path / "in", tmp_path / "out")

    found = table(tmp_path / "out/answers.csv")
    dice = []
    for name, file, voxels in zip(found["id"], found["file"], found["voxels of 1"], strict=True):
        mask = decode_mask(tmp_path / "out" / file)
        assert mask.shape == truth[name].shape
        assert voxels == (mask == 1).sum()
        dice.append(2 * (mask & truth[name]).sum() / max(mask.sum() + truth[name].sum(), 1))
    assert np.mean(dice) > 0.4
    assert found["file"][0] == "masks/image-0000001.png"


def test_boxes_lie_in_the_images_own_pixels(tiny: Path, tmp_path: Path) -> None:
    rng, cells, truth = np.random.default_rng(0), ["path,patient,boxes"], {}
    for number in range(24):
        image = rng.integers(0, 60, (48, 64), np.uint8)
        x, y = int(rng.integers(2, 36)), int(rng.integers(2, 26))
        image[y : y + 20, x : x + 20] += 180
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        truth[f"{number}.png"] = [x, y, x + 20, y + 20]
        cells.append(f'{number}.png,p{number},"[[""cell"", {x}, {y}, {x + 20}, {y + 20}]]"')
    (tmp_path / "t.csv").write_text("\n".join(cells))
    tune(
        tiny, tmp_path / "tuned", alone=True, task={"name": "detection", "width": 16},
        run=short(
            3, floors="none", train={**LEARNED, "steps_per_round": 20},
            data={"source": {"name": "catalog", "path": str(tmp_path / "t.csv")}, "image_px": 16,
                  "channels": 1},
        ),
    )  # fmt: skip

    ask(tmp_path / "tuned", tmp_path / "t.csv", tmp_path / "out")

    boxes, images = (table(tmp_path / f"out/{name}.csv") for name in ("boxes", "answers"))
    assert list(boxes) == ["id", "class", "score", "x0", "y0", "x1", "y1"]
    assert images["id"] == [f"{number}.png" for number in range(24)]
    corners = np.array([boxes[name] for name in ("x0", "y0", "x1", "y1")], np.float64).T
    overlaps = []
    for name, count, surest in zip(images["id"], images["boxes"], images["surest"], strict=True):
        rows = [row for row, own in enumerate(boxes["id"]) if own == name]
        assert len(rows) == count
        assert boxes["score"][rows[0]] == surest == max(boxes["score"][row] for row in rows)
        overlaps.append(iou(corners[rows[:1]], np.array([truth[name]], np.float64))[0, 0])
    assert np.mean(overlaps) > 0.5
    assert set(boxes["class"]) == {"cell"}


def test_what_is_odd_is_scored_and_shown_where(tiny: Path, tmp_path: Path) -> None:
    tune(
        tiny, tmp_path / "tuned", alone=True, run=short(1, floors="none"),
        task={"name": "anomaly", "normal": "0", "bottleneck": 8},
    )  # fmt: skip
    source, out = pictures(tmp_path / "in"), tmp_path / "out"

    ask(tmp_path / "tuned", source, out)

    found = table(out / "answers.csv")
    assert list(found) == ["id", "file", "score (foretold)", "foretold"]
    assert found["score (foretold)"] == found["foretold"]
    for file, size in zip(found["file"], [(20, 20), (21, 20), (22, 20)], strict=True):
        with Image.open(out / file) as shown:
            assert (shown.mode, shown.size) == ("F", size)
            assert np.isfinite(np.asarray(shown)).all()


def test_scores_beside_own_normal_images_are_those_of_the_study(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONFRERE_CACHE", str(tmp_path / "cache"))
    tune(
        tiny, tmp_path / "tuned", alone=True, run=short(1, floors="none"),
        task={"name": "anomaly", "normal": "0", "bottleneck": 8, "score": "knn"},
    )  # fmt: skip
    source, out = tiny.parent / "images.npz", tmp_path / "out"

    said, code = told("predict", tmp_path / "tuned", source, "--out", out)
    ask(tmp_path / "tuned", source, out, "--normal", source)

    assert code == 1
    assert "'knn' holds an image against normal ones" in said
    found = table(out / "answers.csv")
    assert list(found)[2:] == [
        "score (knn)", "foretold", "unusual", "knn", "mahalanobis", "normality"
    ]  # fmt: skip
    normal = np.arange(60) % 3 == 0
    knn, normality = np.array(found["knn"]), np.array(found["normality"])
    assert np.array_equal(np.argsort(knn, kind="stable"), np.argsort(-normality, kind="stable"))
    assert 0 <= normality.min() < normality.max() <= 1
    assert knn[normal].mean() < knn[~normal].mean()  # normal ones lie in their own sample


def test_an_index_finds_neighbours_also_when_it_is_asked_again(tiny: Path, tmp_path: Path) -> None:
    tune(
        tiny, tmp_path / "tuned", alone=True, task={"name": "retrieval", "out": 8},
        run=short(3, floors="none", train=LEARNED),
    )  # fmt: skip
    source, one, two = tiny.parent / "images.npz", tmp_path / "one", tmp_path / "two"

    ask(tmp_path / "tuned", source, one, "--query", source, "--neighbours", "3")
    ask(tmp_path / "tuned", one / "index.parquet", two, "--query", source, "--neighbours", "3")

    index, found = pq.read_table(one / "index.parquet"), table(one / "neighbours.csv")
    assert index.num_rows == 60
    assert np.allclose([np.linalg.norm(row) for row in index["features"].to_pylist()], 1, atol=1e-5)
    assert found["rank"] == [1, 2, 3] * 60
    assert all(query != other for query, other in zip(found["query"], found["id"], strict=True))
    alike = [int(query[6:]) % 3 == int(other[6:]) % 3
             for query, other in zip(found["query"], found["id"], strict=True)]  # fmt: skip
    assert np.mean(alike) > 0.6
    assert (one / "neighbours.csv").read_bytes() == (two / "neighbours.csv").read_bytes()
    assert not (two / "index.parquet").exists()
    other = fresh(tmp_path / "other", tuning("retrieval", knobs={"out": 8}))
    said, code = told("predict", other, one / "index.parquet", "--out", tmp_path / "x",
                      "--query", source)  # fmt: skip
    assert (code, "was made by another network" in said) == (1, True)
    said, code = told("predict", tmp_path / "tuned", one / "index.parquet", "--out", tmp_path / "y")
    assert (code, "give images with --query" in said) == (1, True)


def test_a_prepared_data_set_is_answered_by_keys_that_name_nobody(tmp_path: Path) -> None:
    from confrere_client.ingest.prepare import Order, prepare

    pictures(tmp_path / "in", count=5)
    prepare(Order(sources=(tmp_path / "in",), dataset=tmp_path / "set"))
    release = fresh(tmp_path / "tuned", tuning("segmentation", knobs={"width": 4}))

    ask(release, tmp_path / "set", tmp_path / "out")

    found = table(tmp_path / "out/answers.csv")
    keys = pq.read_table(tmp_path / "set/catalog.parquet")["key"].to_pylist()
    assert found["id"] == keys
    assert found["file"] == [f"masks/{key}.png" for key in keys]
    every = b"".join(p.read_bytes() + str(p).encode() for p in (tmp_path / "out").rglob("*.*"))
    assert b"SMITH" not in every
    page = (Path(__file__).parents[2] / "docs/finetuning.md").read_text()
    query = page.partition('book.sqlite "')[2].partition('"')[0]
    with sqlite3.connect(tmp_path / "set.private/book.sqlite") as book:
        whose = dict(book.execute(query).fetchall())
    assert set(whose) == set(keys)
    assert all("SMITH^JOHN" in place for place in whose.values())


@pytest.mark.parametrize("task", ["classification", "segmentation", "detection", "anomaly"])
def test_nothing_is_sent_and_nothing_is_written_elsewhere(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    knobs = {"anomaly": {"normal": "a", "bottleneck": 8}, "segmentation": {"width": 4}}
    release = fresh(tmp_path / "tuned", tuning(task, knobs=knobs.get(task, {})))
    source = pictures(tmp_path / "in")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for opened in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, opened, refuse)

    ask(release, source, tmp_path / "out")

    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    elsewhere = {path: at for path, at in after.items() if "out" not in path.parts}
    assert elsewhere == {path: before[path] for path in before}


def test_a_name_that_is_a_path_leads_nowhere(tmp_path: Path) -> None:
    pictures(tmp_path / "in/deep")
    (tmp_path / "in/list.csv").write_text("path\ndeep/../deep/SMITH^JOHN/0.png\n")
    release = fresh(tmp_path / "tuned", tuning("segmentation", knobs={"width": 4}))

    ask(release, tmp_path / "in/list.csv", tmp_path / "out")

    assert [path.name for path in (tmp_path / "out/masks").iterdir()] == ["image-0000001.png"]


def test_an_altered_release_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    run = fresh(tmp_path / "tuned", tuning())
    words = "export", run, "--out", tmp_path / "release", "--key", tmp_path / "export.key"
    assert told(*words)[1] == 0
    source, key = pictures(tmp_path / "in"), tmp_path / "export.pub"
    assert "sound: release" in ask(tmp_path / "release", source, tmp_path / "one", "--key", key)
    (tmp_path / "release/task.json").write_bytes(
        (tmp_path / "release/task.json").read_bytes().replace(b'"a","b","c"', b'"b","a","c"')
    )

    for words in ((), ("--key", key)):
        asked = "predict", tmp_path / "release", source, "--out", tmp_path / "two"
        said, code = told(*asked, *words)
        assert code == 1
        assert "altered" in said
    assert not (tmp_path / "two").exists()


def test_an_altered_run_is_not_released(tmp_path: Path) -> None:
    run = fresh(tmp_path / "tuned", tuning())
    shutil.copy(fresh(tmp_path / "other", tuning(), seed=1) / "task.safetensors", run)

    said, code = told("export", run, "--out", tmp_path / "release", "--key", tmp_path / "k.key")

    assert (code, "task.safetensors is not the file" in said) == (1, True)
    assert not (tmp_path / "release").exists()


@pytest.mark.parametrize(
    ("federation", "head", "due"),
    [
        ({"personal": ["encoder.stem.*"]}, "shared", "weights stayed at the sites"),
        ({}, "local", "kept it at each site (finetune.head: local)"),
    ],
)
def test_what_stayed_at_the_sites_of_a_simulation_is_told(
    federation: dict[str, Any], head: str, due: str, tiny: Path, tmp_path: Path
) -> None:
    run = {"federation": {"rounds": 1, **federation}, "floors": "none"}
    tune(tiny, tmp_path / "tuned", head=head, run=run)

    said, code = told("predict", tmp_path / "tuned", pictures(tmp_path / "in"), "--out",
                      tmp_path / "out")  # fmt: skip

    assert (code, due in said) == (1, True)
    load_release(tmp_path / "tuned/encoder.safetensors")


@pytest.mark.parametrize(
    ("words", "due"),
    [
        (["--query", "in"], "--query is for task 'retrieval', and this network's is 'class"),
        (["--normal", "in"], "--normal is for task 'anomaly'"),
        (["--format", "xlsx"], "'xlsx' is not one of csv, parquet"),
        (["--set", "colour=red"], "unknown key 'colour'"),
        (["--set", "colour"], "expected key=value"),
        (["--out", "tuned"], "holds files already"),
        (["--out", "in/answers"], "lies among the images"),
        (["--device", "tpu"], "use auto, cpu, cuda"),
    ],
)
def test_what_makes_no_sense_is_told(
    words: list[Any], due: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fresh(tmp_path / "tuned", tuning())
    pictures(tmp_path / "in")

    said, code = told("predict", "tuned", "in", "--out", "out", *words)

    assert code == 1
    assert due in said
    assert not (tmp_path / "out").exists()


def test_images_that_no_network_takes_are_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", images=np.zeros((4, 9, 8, 7, 1), np.uint8))
    release = fresh(tmp_path / "tuned", tuning())
    source = pictures(tmp_path / "in")
    (source / "torn.png").write_bytes(b"\x89PNG")

    said, code = told("predict", release, tmp_path / "v.npz", "--set", "dims=3", "--out",
                      tmp_path / "no")  # fmt: skip
    listed = ask(release, source, tmp_path / "out")

    assert code == 1
    assert "none of the 4 images can be asked about: 4 x is 3-D" in said
    assert "1 images were left out" in listed
    assert table(tmp_path / "out/skipped.csv")["image"] == ["torn.png"]


def test_whoever_asks_for_help_is_taught() -> None:
    said, code = told("predict", "--help")

    assert code == 0
    for word in ("classification", "masks/", "boxes.csv", "--normal", "neighbours.csv", "prepare"):
        assert word in said

"""The card of a federated fine-tuning has what its sites counted: figures, bounds, and of whom."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from loopback import make_workspace
from published import counts, finished, tuned
from tiny_runs import tuning

from confrere_common.config import Run
from confrere_common.errors import CheckpointError
from confrere_common.tally import STEPS
from confrere_deploy.federation.fetching import fetch
from confrere_deploy.release.card import Files, card_of
from confrere_deploy.release.export import Wishes, export
from confrere_deploy.release.markdown import card_markdown
from confrere_deploy.release.scored import BOUNDS, OWN_HEADS, scored
from confrere_deploy.report.pooled import evaluated
from confrere_server.membership.seal import seal
from confrere_server.runs.judging import put_together

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
ENCODER = {
    "encoder": {"name": "vit"},
    "input": {"channels": 1, "size": [16, 16]},
    "preprocessing": {},
}


def exported(folder: Path, said: dict[str, Any], **section: Any) -> tuple[dict[str, Any], str]:
    """Return the card of a run whose sites *said* so, and its page."""
    workspace = make_workspace(folder / "study")
    fetch(workspace, finished(workspace, tuned(**section), said), folder / "run")
    card = export(folder / "run", folder / "release", KEY, Wishes())
    assert json.loads((folder / "release/card.json").read_text()) == json.loads(json.dumps(card))
    return dict(card), (folder / "release/card.md").read_text()


def test_pooled_figures_stand_there_with_their_bounds_and_of_whom_they_are(
    tmp_path: Path,
) -> None:
    overlapping = {"kind": 1, "positives": [[60, 128, 30]], "negatives": [[0, 70, 25]]}
    said = {
        "north": counts(low=20, high=15),
        "south": {**counts(), "smallest": 12, "tallies": [overlapping]},
        "west": "policy-evaluation",
    }

    card, page = exported(tmp_path, said)

    told, report = card["scored_by_sites"], json.loads((tmp_path / "run/report.json").read_text())
    figure, (due,) = told["classes"]["b"]["AUC"], report["evaluation"]["classes"]
    assert {key: told[key] for key in ("round", "sites", "asked", "images", "smallest_cell")} == {
        "round": 1, "sites": 2, "asked": 3, "images": 90, "smallest_cell": 10,
    }  # fmt: skip
    assert figure["mean"] == told["pooled"]["AUC"]["mean"] == pytest.approx(due["auc"])
    assert figure["low"] == pytest.approx(max(0, due["auc"] - due["error"]))
    assert figure["high"] == pytest.approx(min(1, due["auc"] + due["error"]))
    assert 0 <= figure["low"] < figure["mean"] <= figure["high"] <= 1
    assert (figure["images"], figure["others"], figure["sites"]) == (45, 45, 2)
    row = f"{figure['mean']:.3f} | {figure['low']:.3f} to {figure['high']:.3f}"
    for line in (
        "2 of 3 sites told of 90 images, in cells of 10 patients or more.",
        f"| mean of all | AUC | {row} | 90 |  | 2 |",
        f"| 'b' | AUC | {row} | 45 | 45 | 2 |",
        BOUNDS,
        "- task: classification",
        "- test images: 90",
        "- test patients: not told",
        "| site | images |",
    ):
        assert line in page
    assert card["results"] == {}
    assert "Nothing was measured" not in page + json.dumps(card)
    assert any("of another hospital's patients" in limit for limit in card["limits"])
    assert OWN_HEADS not in page


@pytest.mark.parametrize(
    ("said", "section"),
    [
        ({"north": "policy-evaluation"}, {}),
        ({"north": {**counts(), "tallies": []}}, {}),
        ({}, {}),
        ({"north": counts()}, {"evaluation": None}),
    ],
)
def test_where_nothing_was_scored_the_card_says_so(
    said: dict[str, Any], section: dict[str, Any], tmp_path: Path
) -> None:
    card, page = exported(tmp_path, said, **section)

    assert card["scored_by_sites"] == {}
    assert any("Nothing was measured on test patients of this run" in of for of in card["limits"])
    assert "## Results\n\nNothing was measured.\n" in page


def test_heads_that_stayed_at_their_sites_are_not_taken_for_the_release_s(tmp_path: Path) -> None:
    _, page = exported(tmp_path, {"north": counts()}, head="local")

    assert OWN_HEADS in page


def test_a_report_that_says_more_than_was_sealed_is_not_believed(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "study")
    fetch(workspace, finished(workspace, tuned(), {"north": counts()}), tmp_path / "run")
    path = tmp_path / "run/report.json"
    report = json.loads(path.read_text())
    report["evaluation"]["classes"][0]["positives"] = 9999
    path.write_text(json.dumps(report))

    card = export(tmp_path / "run", tmp_path / "release", KEY, Wishes())

    assert card["scored_by_sites"]["classes"]["b"]["AUC"]["images"] == 20


def test_an_evaluation_of_another_version_is_one_clear_message(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "study")
    fetch(workspace, finished(workspace, tuned()), tmp_path / "run")
    path, content = tmp_path / "run/release.json", b'[{"round": 1, "places": {}}]'
    said = json.loads(path.read_text())["release"]
    said["files"]["evaluation.json"] = hashlib.sha256(content).hexdigest()
    path.write_bytes(seal("release", said, workspace.signing_key()))
    (tmp_path / "run/evaluation.json").write_bytes(content)

    with pytest.raises(CheckpointError, match=r"evaluation\.json is no evaluation that this"):
        export(tmp_path / "run", tmp_path / "release", KEY, Wishes())


def page_of(run: Run, results: Any = None, **said: Any) -> tuple[dict[str, Any], str]:
    """Return what a card tells of sites' counts, and its page."""
    assert run.finetune is not None
    report = {"task": run.finetune.task.name}
    found = evaluated([{"round": 1, **put_together(said, run)}])
    card = card_of(Files(encoder=ENCODER, report=report, evaluation=found), results=results)
    assert card["scored_by_sites"] == scored(found, report)
    return card["scored_by_sites"], card_markdown(card)


def cells(positives: Any, negatives: Any = (), kind: int = 0, classes: int = 1) -> dict[str, Any]:
    tally = {"kind": kind, "positives": [*positives], "negatives": [*negatives]}
    return {"classes": classes, "smallest": 10, "tallies": [tally]}


MASKS = tuning("segmentation", knobs={"width": 4}, classes=["tumour"])


def test_of_a_segmentation_it_is_dice_and_what_was_left_alone() -> None:
    fine, wide = [[700, 705, 40], [705, 720, 20]], [[0, STEPS, 12]]

    told, page = page_of(MASKS, north=cells(fine, [[0, 1, 10], [STEPS - 1, STEPS, 30]]))
    _, coarse = page_of(MASKS, north=cells(wide))

    figures = told["classes"]["tumour"]
    assert figures["Dice"]["low"] <= figures["Dice"]["mean"] <= figures["Dice"]["high"]
    assert figures["left alone"] == {
        "mean": 0.75, "low": 0.75, "high": 0.75, "images": 40, "sites": 1,
    }  # fmt: skip
    assert f"| 'tumour' | Dice | {figures['Dice']['mean']:.3f} | " in page
    assert "| 'tumour' | left alone | 0.750 | 0.750 to 0.750 | 40 |  | 1 |" in page
    assert "'left alone' is the share of those without it" in page
    assert "| mean of all | Dice | too coarse | 0.000 to 1.000 | 12 |  | 1 |" in coarse


def test_of_searches_it_is_precision_at_five() -> None:
    run = tuning("retrieval", classes=["lung"])

    told, page = page_of(run, north=cells([[700, 704, 30]]))

    assert told["classes"]["lung"]["P@5"]["images"] == 30
    assert "| 'lung' | P@5 | " in page
    assert "of the five images nearest to a query" in page


@pytest.mark.parametrize(
    ("task", "knobs", "said"),
    [
        ("detection", {}, "An image counts by the surest box"),
        ("anomaly", {"normal": "sound"}, "is the AUROC of anomalies"),
    ],
)
def test_what_an_auc_is_of_is_said(task: str, knobs: dict[str, Any], said: str) -> None:
    run = tuning(task, knobs=knobs, classes=["sound"])

    _, page = page_of(run, north=cells([[64, 128, 20]], [[0, 64, 20]]))

    assert said in page
    assert "| mean of all | AUC | " in page


def test_tables_from_elsewhere_stand_beside_them() -> None:
    elsewhere = {"derm": {"auc": {"mean": 0.8, "low": 0.7, "high": 0.9}}}

    _, page = page_of(MASKS, elsewhere, north=cells([[700, 705, 40]]))

    assert "| derm | auc | 0.800 | 0.700 to 0.900 |  |\n\nScored by the sites" in page


def test_a_class_s_name_draws_no_table() -> None:
    run = tuning("segmentation", knobs={"width": 4}, classes=["a | b"])

    _, page = page_of(run, north=cells([[700, 705, 40]]))

    assert "| 'a / b' | Dice |" in page

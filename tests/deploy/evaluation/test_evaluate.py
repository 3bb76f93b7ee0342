"""An evaluation from run file to report: every part, what is compared, and what is kept."""

import json
from pathlib import Path
from typing import Any

import pytest
from evaluated import RUN, evaluated, paint, written
from rich.console import Console

from confrere_common.errors import CheckpointError, ConfigError
from confrere_common.loading import parse_run
from confrere_common.storage import alone
from confrere_deploy.evaluation import schema
from confrere_deploy.evaluation.page import verdict
from confrere_deploy.evaluation.parts import corrected
from confrere_deploy.evaluation.wishes import labels_in
from confrere_deploy.families import ALL_FAMILIES
from confrere_deploy.report.numbers import Figure
from confrere_deploy.study import tune
from confrere_deploy.study.options import Options


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which everything was evaluated once."""
    folder = tmp_path_factory.mktemp("evaluated")
    curve = labels_in("2 per class, 1.0")
    evaluated(
        paint(folder), folder / "out", curve=curve, leave_one_site_out=True, robustness=True,
        smallest=3,
    )  # fmt: skip
    return folder


@pytest.fixture
def report(done: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((done / "out/report.json").read_bytes())
    return found


def test_arms_stand_beside_each_other_on_the_same_patients(report: dict[str, Any]) -> None:
    assert set(report["arms"]) == {"scratch", "random, frozen"}
    assert {"auc", "brier", "recall of a"} <= report["arms"]["scratch"]["figures"].keys()
    for arm in report["arms"].values():
        reached = arm["figures"]["sensitivity_at_validation_threshold"]["mean"]
        assert reached + arm["figures"]["specificity_at_validation_threshold"]["mean"] > 0
        assert "optimistic_sensitivity_at_90_specificity" in arm["figures"]
    assert any("No encoder was given" in said for said in report["warnings"])


def test_the_curve_has_fewest_labels_first_and_every_arm(report: dict[str, Any]) -> None:
    few, many = report["curve"]

    assert (few["labels"], many["labels"]) == ("2 per class", "1.0")
    assert few["patients"] == 4 < many["patients"]
    assert set(few["arms"]) == set(many["arms"]) == {"scratch", "random, frozen"}
    assert many["arms"]["scratch"] == report["arms"]["scratch"]["figures"]["auc"]


def test_each_site_is_tested_on_what_others_taught_and_on_what_it_taught(
    report: dict[str, Any],
) -> None:
    assert [site["site"] for site in report["unseen"]] == ["site-0", "site-1"]
    for site in report["unseen"]:
        arm = site["arms"]["scratch"]
        assert {"unseen", "seen", "own", "loss"} <= arm.keys()
        assert arm["loss"]["mean"] == pytest.approx(arm["seen"]["mean"] - arm["unseen"]["mean"])


def test_worse_images_are_asked_at_five_severities(report: dict[str, Any]) -> None:
    (found,) = report["robustness"]

    assert set(found["curves"]) == {"grain", "blur", "contrast", "gamma", "resolution", "jpeg"}
    assert {len(curve) for curve in found["curves"].values()} == {6}
    assert found["curves"]["blur"][0] == report["arms"]["scratch"]["figures"]["auc"]


def test_confidence_is_told_before_and_after_a_temperature(report: dict[str, Any]) -> None:
    (found,) = report["calibration"]

    assert found["before"].keys() == found["after"].keys() == {"ece", "adaptive_ece", "brier"}
    assert sum(bar["images"] for bar in found["bars_before"]) == report["data"]["test_images"]
    assert all(0.05 <= value <= 20 for value in found["temperatures"])


def test_groups_are_those_that_the_catalog_knows(report: dict[str, Any]) -> None:
    found = {one["factor"]: one for one in report["factors"]}

    assert set(found) == {"site", "sex", "age"}
    assert set(found["sex"]["figures"]) == {"female", "male"}
    assert found["site"]["evenness"]["worst"] in ("site-0", "site-1")
    assert all(count >= 3 for one in found.values() for count in one["patients"].values())


def test_it_is_told_how_much_of_the_start_each_map_still_uses(
    done: Path, report: dict[str, Any], tmp_path: Path
) -> None:
    (found,) = report["reuse"]  # what is frozen is not among them

    assert found["arm"] == "scratch"
    assert [one["name"] for one in found["levels"]][-1] == "features"
    assert all(0 < value <= 1.000001 for one in found["levels"] for value in one["cka"])
    assert "How much of its start it still uses" in (done / "out/report.html").read_text()

    paint(tmp_path)
    plain = {**RUN, "finetune": {"task": "classification", "mode": "frozen"}}
    kept = evaluated(written(tmp_path, plain), tmp_path / "kept", pictures=False)
    values = [value for one in kept["reuse"][0]["levels"] for value in one["cka"]]
    assert values == pytest.approx([1.0] * len(values), abs=1e-6)
    assert min(found["levels"][-1]["cka"]) < 1 - 2e-5  # two steps move it, a little


def test_the_report_holds_no_image_and_the_pictures_say_what_they_are(done: Path) -> None:
    page, pictures = ((done / f"out/{name}.html").read_text() for name in ("report", "pictures"))

    assert "data:image" not in page
    assert "pictures.html" in page
    assert page.count("<svg") == 6
    assert pictures.count("data:image/png") >= 8
    assert "do not pass it on" in pictures
    assert "i3.png" not in page + pictures  # names of files may be names of patients


def stamps(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (out / "cells").glob("*.npz")}


def test_only_what_is_not_finished_is_done_again(tmp_path: Path) -> None:
    run_file, out = paint(tmp_path), tmp_path / "out"
    whole = evaluated(run_file, out, curve=labels_in("2 per class"), pictures=False)
    before = stamps(out)
    torn, gone = sorted(name for name in before if name.startswith("scratch"))[:2]
    (out / "cells" / torn).write_bytes((out / "cells" / torn).read_bytes()[:40])
    (out / "cells" / gone).unlink()

    again = evaluated(run_file, out, curve=labels_in("2 per class"), pictures=False, resume=True)

    after = stamps(out)
    assert {name for name in before if before[name] != after[name]} == {torn, gone}
    assert again["arms"] == whole["arms"]
    assert again["curve"] == whole["curve"]
    assert again["cost"]["sessions"] == 2
    assert not list((out / "work").iterdir())


def test_a_given_encoder_meets_scratch_and_itself_frozen_by_paired_differences(
    done: Path, tmp_path: Path
) -> None:
    plain = {**RUN, "floors": "none"}
    options = Options(folder=done, out=tmp_path / "north", resources={})
    tune.carry_out(parse_run(plain, ALL_FAMILIES), options, Console(quiet=True), alone=True)

    report = evaluated(done / "run.yaml", tmp_path / "out", tmp_path / "north", pictures=False)

    assert list(report["arms"]) == ["north", "scratch", "north, frozen", "random, frozen"]
    assert [gap["theirs"] for gap in report["gaps"]] == [
        "scratch", "north, frozen", "random, frozen"
    ]  # fmt: skip
    assert len(report["encoders"]["north"]) == 64
    for gap in report["gaps"]:
        assert 0 < gap["p"] <= gap["p_corrected"] <= min(1, 3 * gap["p"])
    page = (tmp_path / "out/report.html").read_text()
    assert "corrected)" in page
    assert "(Holm)" in page


@pytest.mark.parametrize(
    ("low", "p", "said"),
    [
        (0.01, 0.03, "is above 'b': paired difference of auc +0.100 (+0.010 to +0.300), p = 0.01"),
        (0.01, 0.06, "is not told apart from 'b'"),
        (-0.01, 0.03, "is not told apart from 'b'"),
    ],
)
def test_arms_are_told_apart_by_the_interval_and_by_what_p_is_after_correction(
    low: float, p: float, said: str
) -> None:
    gap = schema.Gap(
        ours="a",
        theirs="b",
        figure=Figure(mean=0.1, low=low, high=0.3, n=3),
        p=0.01,
        p_corrected=p,
    )

    assert said in verdict(gap, "auc")


def test_a_list_of_differences_is_corrected_as_a_whole() -> None:
    figure = Figure(mean=0.1, low=0.0, high=0.3, n=3)
    found = [schema.Gap(ours="a", theirs=str(n), figure=figure, p=p)
             for n, p in enumerate((0.01, None, 0.04, 0.03))]  # fmt: skip

    told = [gap.p_corrected for gap in corrected(found)]

    assert told == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]


def lesions(folder: Path, **task: Any) -> Path:
    """Write a run on phantom lesions, whose masks and boxes are known."""
    knobs = {"modality": "lesion", "images": 32, "patients": 16, "sites": 1, "image_px": 16}
    data = {"source": {"name": "phantom", **knobs}, "image_px": 16}
    augment = {"modality": "dermatology", "changes": {"area": [0.8, 1]}}
    encoder = {"name": "resnet", "width": 8, "stem": "small"}
    plain = {**RUN, "data": data, "augment": augment, "encoder": encoder}
    return written(folder, {**plain, "finetune": {"task": task}})


def test_detectors_are_told_by_a_curve_over_false_alarms(tmp_path: Path) -> None:
    run_file = lesions(tmp_path, name="detection", width=8)

    report = evaluated(run_file, tmp_path / "out", pictures=False)

    page = (tmp_path / "out/report.html").read_text()
    assert {"FROC at 1/8", "FROC at 8", "FROC mean"} <= report["arms"]["scratch"]["figures"].keys()
    assert "Share of true boxes found at 1/8 to 8 false alarms per image: scratch" in page
    assert "Structure by structure" not in page


def test_outlines_are_told_with_what_was_missed_and_invented(tmp_path: Path) -> None:
    run_file = lesions(tmp_path, name="segmentation", width=4)

    report = evaluated(run_file, tmp_path / "out", pictures=False)

    for arm in report["arms"].values():
        structure = arm["structures"]["1"]
        assert structure["cases"] == report["data"]["test_images"]
        assert structure["missed"][0] <= structure["cases"] - structure["without"]
        assert 0 <= structure["dice"]["lower"] <= structure["dice"]["median"]
    assert "Structure by structure" in (tmp_path / "out/report.html").read_text()


def test_two_at_once_do_not_share_a_folder(tmp_path: Path) -> None:
    run_file = paint(tmp_path, patients=12)
    evaluated(run_file, tmp_path / "out", pictures=False)
    before = stamps(tmp_path / "out")

    with alone(tmp_path / "out/lock", "busy"), pytest.raises(ConfigError, match="at work"):
        evaluated(run_file, tmp_path / "out", resume=True, curve=labels_in("1 per class"))

    assert stamps(tmp_path / "out") == before


def test_a_folder_of_other_images_is_not_taken_up(done: Path, tmp_path: Path) -> None:
    other = paint(tmp_path, patients=30)

    with pytest.raises(CheckpointError, match="images differ"):
        evaluated(other, done / "out", resume=True)
    with pytest.raises(ConfigError, match="add --resume"):
        evaluated(other, done / "out")


@pytest.mark.parametrize("text", ["0", "2", "x", "0 per class", "-1", "", "nan"])
def test_an_amount_of_labels_that_is_none_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match="--labels"):
        labels_in(text)

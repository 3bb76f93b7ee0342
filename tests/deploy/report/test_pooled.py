"""What sites counted, in a report: a coarse figure is told by its bounds, and ranks nobody."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import tuning

from confrere_client.halving import cells
from confrere_common.config import Run
from confrere_common.tally import STEPS, step_of
from confrere_deploy.federation.federal_tuned import tuned_report
from confrere_deploy.report.pooled import Evaluated, cautions, evaluated, shown
from confrere_deploy.report.tuned import TunedReport, page
from confrere_server.record import RoundRecord, SiteRecord
from confrere_server.runs.course import Course, Heard
from confrere_server.runs.judging import put_together
from confrere_server.store import ServerState

RUN = tuning("segmentation", knobs={"width": 4}, classes=["tumour"])


def said(dice: list[float], alone: list[float] | None = None, **more: Any) -> dict[str, Any]:
    """Return what a site tells, one image a patient."""
    sides = {
        name: [list(c) for c in cells(step_of(np.array(side)), np.arange(len(side)), 10)]
        for name, side in (("positives", dice), ("negatives", alone or []))
    }
    return {"classes": 1, "smallest": 10, "tallies": [{"kind": 0, **sides}], **more}


def found(run: Run = RUN, **sites: dict[str, Any]) -> Evaluated:
    section = evaluated([{"round": 1, **put_together(sites, run)}])
    assert section is not None
    return section


def report(run: Run, **sites: dict[str, Any]) -> TunedReport:
    told = [{"round": 1, **put_together(sites, run)}]
    return tuned_report(run, "0" * 64, ServerState(round=1, weights={}, step={}), told)


def page_of(run: Run = RUN, **sites: dict[str, Any]) -> str:
    return page(report(run, **sites))


FINE = np.linspace(0.7, 0.95, 200).tolist()
WORSE = np.linspace(0.5, 0.75, 200).tolist()
COARSE = [0.0] * 4 + [0.9] * 8


def test_a_site_whose_figure_is_coarse_is_neither_worst_nor_best() -> None:
    section = found(north=said(FINE), south=said(WORSE), west=said(COARSE))

    assert section.shared is not None
    assert (section.shared.worst, section.shared.sites) == ("south", 2)
    assert section.shared.gap == pytest.approx(0.2, abs=0.05)
    (west,) = (one for one in section.sites if one.site == "west")
    assert (west.low, west.high) == (0, 1)


def test_where_one_site_alone_is_fine_nobody_is_compared() -> None:
    assert found(north=said(FINE), west=said(COARSE)).shared is None


def test_coarse_figures_are_told_by_their_bounds() -> None:
    text = page_of(north=said(COARSE), west=said(COARSE))

    assert "lies somewhere from <strong>0.00 to 1.00</strong>" in text
    assert "<td>0.00 to 1.00</td><td></td>" in text
    assert "0.500" not in text
    assert found(west=said(COARSE)).course == {}


def test_fine_figures_are_told_with_their_error() -> None:
    section, text = found(north=said(FINE)), page_of(north=said(FINE))

    assert f"<strong>{section.dice:.3f}</strong>" in text
    assert f"<td>{section.dice:.3f}</td><td>{section.error:.3f}</td>" in text
    assert section.course == {1: section.dice}


def test_a_coarse_share_of_images_left_alone_is_warned_of() -> None:
    coarse = found(north=said(FINE, [0.0] * 5 + [1.0] * 30))
    fine = found(north=said(FINE, [0.0] * 15 + [1.0] * 30))

    (warned,) = cautions(coarse)
    assert warned.startswith("Of images without 'tumour' 0% to 100% were left alone")
    assert list(cautions(fine)) == []
    assert "<td>0.667</td><td>0.000</td>" in page_of(north=said(FINE, [0.0] * 15 + [1.0] * 30))


def test_a_site_that_makes_up_most_of_a_figure_is_named() -> None:
    many = {**said(FINE), "enrolled": 40}

    told = list(cautions(found(north=said(FINE[:50]), south=many)))

    assert told[0].startswith("Site 'south' counted 80% of the images")
    assert told[1].startswith("Site 'south' scored the model on 200 images, and trains on 40")
    assert list(cautions(found(north=said(FINE), south=said(FINE)))) == []


@given(low=st.floats(0, 1), width=st.floats(0, 1))
def test_a_figure_is_shown_with_an_error_or_with_bounds(low: float, width: float) -> None:
    figure, error = shown(low, width, low, low + width)

    assert (" to " in figure) == (width > 0.1) == (error == "")
    assert shown(0.5, width, None, None) == ("0.500", f"{width:.3f}")  # an area has no bounds
    assert shown(None, None, None, None) == ("", "")


SEARCHED = tuning("retrieval", classes=["lung"])
ODD = tuning("anomaly", knobs={"normal": "sound"}, classes=["sound"])
PLAIN = tuning(classes=["sound"])


def test_searches_are_told_as_p_at_5_and_never_as_dice() -> None:
    fine, coarse = (page_of(SEARCHED, north=said(values)) for values in (FINE, COARSE))
    section = found(SEARCHED, north=said(FINE), south=said(WORSE))

    assert "pooled P@5 of searches, mean over classes, <strong>0.8" in fine
    assert "pooled P@5 of searches, mean over classes, lies somewhere from <strong>0.00" in coarse
    assert "<th>Class searched for</th><th>P@5</th>" in fine
    assert "<tr><th>Site</th><th>P@5</th>" in fine
    assert "Dice" not in fine + coarse
    assert "structure" not in fine + coarse
    assert section.worth == section.precision == section.course[1]
    assert section.shared is not None
    assert section.shared.worst == "south"
    assert report(SEARCHED, north=said(FINE)).headline == "P@5"
    (warned,) = cautions(found(SEARCHED, north=said(COARSE)))
    assert warned.startswith("The pooled P@5 may be off by 0.")


def test_where_no_class_was_told_of_the_measure_is_named_all_the_same() -> None:
    text = page_of(SEARCHED, north=said([0.5] * 9) | {"tallies": []})

    assert "no site told of searches by enough patients of any class" in text
    assert "<tr><th>Site</th><th>P@5</th>" in text


def test_how_normal_images_look_is_told_as_the_area_of_anomalies_without_calibration() -> None:
    text, likely = (page_of(run, north=said(FINE, WORSE)) for run in (ODD, PLAIN))
    (one,) = found(ODD, north=said(FINE, WORSE)).classes

    assert "is the AUROC of anomalies" in text
    assert "AUROC" not in likely
    for word in ("Calibration error", "reliability"):
        assert word in likely
        assert word not in text
    assert (one.name, one.calibration_error, one.confidence) == ("sound", None, ())


def test_an_unresolved_cell_spans_the_grid() -> None:
    assert said(COARSE)["tallies"][0]["positives"] == [[0, STEPS, 12]]


def reported(run: Run, folder: Path, heard: dict[int, Heard]) -> TunedReport:
    course = Course(folder=folder, digest="d", patience=None, examine=lambda _: {}, heard=heard)
    sites = (SiteRecord(site="north"), SiteRecord(site="south"))
    records = tuple(
        RoundRecord(round=number, sites=sites, bytes_up=8, bytes_down=8, seconds=1.0)
        for number in (1, 2, 3)
    )
    state = ServerState(round=3, weights={}, step={}, records=records)
    return tuned_report(run, "0" * 64, state, [], course=course)


def test_a_report_tells_which_round_was_published_and_who_had_no_say_in_it(tmp_path: Path) -> None:
    few = "nothing-to-score"
    heard: dict[int, Heard] = {
        1: {"north": (0.5, 30), "south": few}, 2: {"north": (0.75, 30)}, 3: {"north": (0.6, 30)},
    }  # fmt: skip

    found = reported(RUN, tmp_path, heard)

    (course,) = found.courses
    assert (course.best, dict(course.scores)) == (2, {1: 0.5, 2: 0.75, 3: 0.6})
    assert found.headline == "dice"
    assert found.cost.bytes_down == 3 * 8 + 4 * 4  # to both once, and to north in each round
    drawn = replace(found, courses=(replace(course, losses={1: 0.9, 2: 0.8, 3: 0.7}),))
    assert "Round 2 was best on the sites' validation patients" in page(drawn)
    (warning,) = (said for said in found.warnings if "told no score" in said)
    assert warning.startswith("Site 'south' told no score of validation patients: The hospital has")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, "no site told a score of validation patients"),
        ({"head": "local"}, "weights stay at their sites"),
        ({"evaluation": None}, "the run asks its sites for no score"),
    ],
)
def test_a_report_says_why_no_round_was_chosen_and_that_patience_was_not_used(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    run = tuning("segmentation", knobs={"width": 4}, classes=["tumour"], **changes)

    found = reported(run, tmp_path, {})

    (warning,) = (said for said in found.warnings if said.startswith("No round was chosen"))
    assert why in warning
    assert warning.endswith("finetune.patience (10) was not used.")
    assert found.courses[0].best == 3

from dataclasses import replace

import pytest

from confrere_deploy.report.pictures import Pictures
from confrere_deploy.report.prose import cautions, leading, summary, the_map, the_test, verdicts
from confrere_deploy.report.schema import Arm, ArmName, Figure, Joining, Knn, Linear, Report


def reached(mean: float, width: float = 0.02) -> Arm:
    figure = Figure(mean=mean, low=mean - width, high=mean + width, n=2)
    return Arm(linear=Linear(auc=figure), knn=Knn(accuracy=figure))


def with_arms(report: Report, levels: dict[ArmName, float], **changes: object) -> Report:
    arms = {name: reached(level) for name, level in levels.items()}
    return replace(report, arms=arms, **({"differences": None, "joining": None} | changes))  # type: ignore[arg-type]


def test_the_summary_tells_what_was_run_and_what_came_of_it(report: Report) -> None:
    told = summary(report)

    assert "3 sites with 267 images of 87 patients trained an encoder together in 3 rounds" in told
    assert "without sharing an image" in told
    assert "AUC of 0.90 (0.88 to 0.92), against 0.80 when each site trains alone" in told


def test_separate_intervals_are_told_as_a_difference(report: Report) -> None:
    said = verdicts(with_arms(report, {"local": 0.8, "federated": 0.9}))

    assert said == [
        "Federated is above each site training alone: the intervals do not overlap.",
    ]


def test_overlapping_intervals_are_not_told_as_a_difference(report: Report) -> None:
    (said,) = verdicts(with_arms(report, {"local": 0.88, "federated": 0.9}))

    assert "are not told apart: their intervals overlap" in said


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (0.01, 0.09, "Federated is above each site training alone: paired difference +0.050"),
        (
            -0.01,
            0.11,
            "paired difference +0.050 (\N{MINUS SIGN}0.010 to +0.110) includes zero",
        ),
        (0.0, 0.1, "includes zero"),
    ],
)
def test_a_paired_difference_decides_when_there_is_one(
    report: Report, low: float, high: float, told: str
) -> None:
    paired = {"federated-local": Figure(mean=0.05, low=low, high=high, n=2)}

    (said,) = verdicts(with_arms(report, {"local": 0.6, "federated": 0.9}, differences=paired))

    assert told in said


def test_being_worse_is_told_plainly(report: Report) -> None:
    (said,) = verdicts(with_arms(report, {"local": 0.9, "federated": 0.8}))

    assert said.startswith("Federated is below each site training alone")


def test_who_loses_by_joining_is_named(report: Report) -> None:
    gains = {
        "anna": Figure(mean=0.1, low=0.05, high=0.2, n=2),
        "bert": Figure(mean=-0.1, low=-0.2, high=-0.05, n=2),
        "cleo": Figure(mean=-0.01, low=-0.1, high=0.1, n=2),
    }
    paid = Joining(
        gains=gains,
        losing=("bert", "cleo"),
        surely_losing=("bert",),
        surely_gaining=("anna",),
    )

    said = verdicts(replace(report, joining=paid))[-1]

    assert "2 of 3 sites lost by joining (bert and cleo), 1 surely (bert); 1 surely gained" in said


def test_not_beating_a_floor_is_a_caution(report: Report) -> None:
    (said,) = cautions(with_arms(report, {"random": 0.89, "federated": 0.9}))

    assert "not shown to be better than an untrained encoder" in said


def test_missing_floors_are_a_caution(report: Report) -> None:
    (said,) = cautions(with_arms(report, {"federated": 0.9}))

    assert "No floor was measured" in said


def test_without_an_auc_the_neighbours_lead(report: Report) -> None:
    knn = Knn(accuracy=Figure(mean=0.7, low=0.6, high=0.8, n=1))
    bare = replace(report, arms={"federated": Arm(knn=knn)}, differences=None)

    title, figures = leading(bare)

    assert title == "accuracy of 20 nearest neighbours"
    assert "an accuracy of 20 nearest neighbours of 0.70 (0.60 to 0.80)" in summary(bare)
    assert list(figures) == ["federated"]


def test_without_labels_nothing_is_claimed(report: Report) -> None:
    unlabelled = replace(report, arms={}, differences=None, data=replace(report.data, classes=()))

    assert "no labels, so how useful its features are was not measured" in summary(unlabelled)
    assert verdicts(unlabelled) == cautions(unlabelled) == []
    assert the_test(unlabelled) == ""


def test_without_rounds_nothing_is_said_to_be_trained(report: Report) -> None:
    told = summary(replace(report, rounds=(), arms={}))

    assert "no round was closed" in told
    assert "trained" not in told


def test_the_map_speaks_of_sites_only_when_it_shows_some() -> None:
    assert "Sites should mix" not in the_map(Pictures())

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confrere_common.errors import ConfigError
from confrere_common.section import documentation, section_fields
from confrere_deploy.report import schema
from confrere_deploy.report.codec import from_json, plain, to_json, validate
from confrere_deploy.report.schema import Arm, Cost, Figure, Linear, Report

KEYS = {
    "Report": "schema name created version run digest seeds sites arms differences joining "
    "intervals site_tests rounds cost protection warnings skipped data machine command",
    "Joining": "gains losing surely_losing surely_gaining",
    "Site": "site images patients test_patients",
    "Arm": "linear knn rankme sites unseen",
    "SiteArm": "linear knn",
    "Linear": "auc accuracy balanced_accuracy",
    "Knn": "accuracy accuracy_11",
    "Figure": "mean low high n",
    "Round": "round seed loss sites bytes_up bytes_down seconds",
    "RoundSite": "site loss images seconds metrics alarms refused",
    "Cost": "wall_s cpu_s peak_rss_mib bytes_up bytes_down images_per_s sessions",
    "Protection": "unit epsilon delta secure_aggregation sites",
    "ProtectedSite": "site patients rate noise_multiplier clip_norm steps_per_round rounds epsilon "
    "delta",
    "Data": "images patients classes channels size modality test_images test_patients preparation",
    "Skipped": "count reasons",
    "Machine": "cpu cores gpu torch python",
}
"""The contract, schema 1. A key that goes or changes its meaning takes another schema number."""


@pytest.mark.parametrize("name", KEYS)
def test_the_keys_are_those_of_the_contract(name: str) -> None:
    fields = section_fields(getattr(schema, name))

    assert [field.name for field in fields] == KEYS[name].split()


@pytest.mark.parametrize("name", KEYS)
def test_every_key_is_explained_in_the_readme(name: str) -> None:
    readme = Path(schema.__file__).with_name("README.md").read_text(encoding="utf-8")
    rows = [line for line in readme.splitlines() if line.startswith("| `")]

    for key, text in documentation(getattr(schema, name)).items():
        explained = " ".join(text.split())
        assert any(row.startswith(f"| `{key}` |") and explained in row for row in rows), key


def test_a_written_report_has_what_the_issue_promises(report: Report) -> None:
    content = json.loads(to_json(report))

    assert content["schema"] == 1
    assert content["created"] == "2030-05-17T12:30:00Z"
    assert set(content["arms"]) == {"raw", "random", "local", "federated", "centralised"}
    for arm in content["arms"].values():
        assert set(arm["linear"]) == {"auc", "accuracy", "balanced_accuracy"}
        assert set(arm["knn"]["accuracy"]) == set(arm["rankme"]) == {"mean", "low", "high", "n"}


def test_a_report_reads_back_as_it_was_written(report: Report) -> None:
    again = from_json(to_json(report))

    assert again == report
    assert to_json(again) == to_json(report)


def test_what_has_no_value_is_absent_and_what_was_not_finite_is_null(report: Report) -> None:
    few = replace(report, arms={"federated": Arm(linear=Linear())}, command=None)

    content = json.loads(to_json(few))

    assert content["arms"] == {"federated": {"linear": {}}}
    assert "command" not in content
    assert "refused" not in content["rounds"][0]["sites"][0]
    assert content["rounds"][4]["sites"][1]["loss"] is None
    assert content["run"]["train"]["clip_norm"] is None


@given(st.floats(), st.floats(), st.floats())
@settings(deadline=None, max_examples=60)
def test_no_figure_holds_what_json_cannot_say(mean: float, low: float, high: float) -> None:
    try:
        figure = Figure(mean=mean, low=low, high=high, n=1)
    except ValueError:
        return

    assert json.loads(json.dumps(plain(figure), allow_nan=False))["mean"] == mean
    assert figure.low <= figure.high


def test_a_configuration_that_is_not_finite_is_refused(report: Report) -> None:
    with pytest.raises(ConfigError, match="plain, finite JSON"):
        to_json(replace(report, run={"lr": float("inf")}))


def test_all_faults_are_told_at_once_with_their_places(report: Report) -> None:
    content = plain(report)
    content["cost"].pop("wall_s")
    content["colour"] = "red"
    content["sites"][1]["images"] = -3
    content["arms"]["federated"]["linear"]["auc"]["low"] = 0.99
    content["arms"]["oracle"] = {}

    with pytest.raises(ConfigError) as caught:
        validate(content)

    told = str(caught.value)
    assert "report.json has 5 faults" in told
    assert "'cost.wall_s' is missing" in told
    assert "'colour' is no key of schema 1" in told
    assert "'sites.1.images' is -3: Input should be greater than or equal to 0" in told
    assert "low 0.99 lies above high 0.92: swap them" in told
    assert "oracle" in told


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("{", "it is no JSON"),
        ("[]", "it holds a list"),
        ("{}", "'schema' is missing; this version reads 1"),
        ('{"schema": 2}', "'schema' is 2; this version reads 1: use the confrere that wrote it"),
        ('{"schema": 1, "name": NaN}', "a value that JSON has not"),
    ],
)
def test_what_is_no_report_is_refused_with_advice(text: str, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        from_json(text)


def test_words_do_not_pass_for_numbers(report: Report) -> None:
    content = plain(report) | {"cost": plain(report.cost) | {"wall_s": "161"}}

    with pytest.raises(ConfigError, match=r"'cost.wall_s' is 161: Input should be a valid number"):
        validate(content)


def test_a_cost_may_not_be_negative(report: Report) -> None:
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        Cost(**(plain(report.cost) | {"wall_s": -1.0}))

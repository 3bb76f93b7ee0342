"""A doctor reads what would be trained and what would leave; nothing from outside writes to her."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import tiny_run

from confrere_client.hospital.plan import Decision, Plan
from confrere_client.hospital.plan_text import shared_count
from confrere_client.hospital.plans import summary
from confrere_client.hospital.policy import Policy
from confrere_client.hospital.registry import Registered
from confrere_client.ingest.prepare import Order, prepare
from confrere_common.config import Run
from confrere_common.family import Named
from confrere_common.loading import dump
from confrere_common.method import METHODS
from confrere_common.model import build_model, shared_weights
from confrere_common.proposal import Proposal
from confrere_common.weights import count, nbytes

NOON = datetime(2026, 3, 1, 12)  # noqa: DTZ001  (local time)
DATA = {
    "derm": Registered(
        name="derm",
        source=Named(name="folder", knobs={"path": "/wards/SMITH^JOHN"}),
        images=60,
        patients=40,
        modality="dermatology",
    )
}


def asking(method: str = "mae", **changes: Any) -> Run:
    data = {"source": {"name": "site", "dataset": "derm"}}
    return tiny_run(method, **{"data": data, "federation": {"rounds": 12}, **changes})


def plan_of(run: Run, text: str = "", **changes: Any) -> Plan:
    size = nbytes(shared_weights(build_model(run, 0)))
    proposal = Proposal(
        run_id="r1",
        study="Derm, Europe",
        run=text or dump(run),
        code="ab" * 32,
        sites=3,
        bytes_down=size,
        bytes_up=size,
        seed=0,
    )
    return Plan(proposal=replace(proposal, **changes), received="2026-03-01T12:00:00+00:00")


def rows_of(plan: Plan, policy: Policy | None = None) -> dict[str, str]:
    return dict(summary(plan, policy or Policy(), DATA, now=NOON))


def test_a_doctor_reads_all_that_she_decides_on() -> None:
    plan = plan_of(asking())

    rows = rows_of(plan)

    assert rows["study"] == "Derm, Europe"
    assert rows["method"].startswith("mae: MAE: a light decoder paints")
    assert rows["encoder"].startswith("vit: Vision Transformer")
    assert "0.02 M shared parameters" in rows["encoder"]
    assert rows["data set"] == "'derm' (dermatology): 60 images of 40 patients"
    assert "12 rounds, 2 steps of 4 images" in rows["rounds"]
    assert "24.0 hours of training at most" in rows["rounds"]
    assert "(83.5 kB), the number of images" in rows["leaves, each round"]
    assert "loss, rankme" in rows["leaves, each round"]
    assert rows["leaves, in all"] == "12 times that at most: 1.0 MB"
    assert rows["differential privacy"].startswith("no differential privacy: nothing bounds")
    assert rows["secure aggregation"].startswith("no: the coordinator sees")
    assert rows["joined by"] == "rule mean, server step plain"
    assert rows["other sites"].startswith("2 enrolled, as the coordinator says")
    assert rows["digest of the plan"] == plan.digest
    assert rows["digest of the code"] == "ab" * 32
    assert rows["your policy"].startswith("waiting: [not-approved]")
    assert rows["decision"] == "none yet"
    assert "note" not in rows


def test_the_policy_s_limits_are_told_as_they_would_hold() -> None:
    policy = Policy(
        max_images=20, max_round_minutes=30.0, hours=("20:00-06:00",), gpus=(), threads=2,
        memory_mb=4000, metrics=(), methods=("byol",),
    )  # fmt: skip

    rows = rows_of(plan_of(asking(train={"device": "cuda"})), policy)

    assert rows["data set"].endswith("60 images of 40 patients, of which 20 are used")
    assert "after 30 minutes: 6.0 hours" in rows["rounds"]
    assert rows["machine"] == "device cpu, 2 threads, 4000 MB of memory; from 20:00-06:00"
    assert "no figures" in rows["leaves, each round"]
    assert "[policy-method] The method is 'mae'; your policy allows byol." in rows["your policy"]


def test_what_leaves_because_of_a_mixing_is_told_and_what_stays_of_the_model() -> None:
    federation = {
        "mixing": ["fedprox", "orchestra"],
        "rule": "orchestra",
        "personal": ["encoder.*.bias"],
    }

    rows = rows_of(plan_of(asking("byol", federation=federation)))

    assert "With it leaves centres of small groups of images' features" in rows["mixing"]
    assert rows["stays, of the model"] == "weights named encoder.*.bias"
    assert "note" not in rows  # what travels beside the model was counted


def test_a_size_that_the_coordinator_told_wrong_is_noted() -> None:
    rows = rows_of(plan_of(asking(), bytes_up=1000))

    assert "the coordinator says 1.0 kB leave" in rows["note"]
    assert "take 83.5 kB" in rows["note"]


def test_what_was_decided_stands_there() -> None:
    made = Decision(decision="deny", who="dr", when="2026-03-01", why="no\x1b[31m", digest="")

    rows = rows_of(replace(plan_of(asking()), decision=made))

    assert rows["decision"] == "denied by dr on 2026-03-01: no?[31m"


def test_no_path_and_no_patient_is_in_any_line() -> None:
    rows = rows_of(plan_of(asking()), Policy(methods=(), data_sets=()))

    assert not [text for text in rows.values() if "SMITH" in text or "wards" in text]


def test_what_a_coordinator_wrote_cannot_write_on_the_terminal() -> None:
    bell = "\x1b[2J\x07\u202e"
    run = asking(
        train={"device": f"cpu{bell}"},
        federation={"rule": {"name": f"mean{bell}"}, "step": {"name": f"x{bell}\n" * 900}},
        data={"source": {"name": f"site{bell}"}},
    )
    plan = plan_of(asking(), text=dump(run), study=f"a{bell[-1]}b")

    rows = rows_of(plan)

    assert all(text.isprintable() and len(text) < 1000 for text in rows.values())


def test_a_run_that_cannot_be_read_is_told_with_its_digest() -> None:
    plan = plan_of(asking(), text="{}")

    rows = rows_of(plan)

    assert "cannot be read by this version" in rows["problem"]
    assert rows["digest of the plan"] == plan.digest
    assert "your policy" not in rows


@pytest.mark.parametrize("method", METHODS.names())
def test_parameters_are_counted_without_building_the_model(method: str) -> None:
    run = asking(method)

    assert shared_count(run) == count(shared_weights(build_model(run, 0)))


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder": {"name": "vit", "depth": 10**9}},
        {"encoder": {"name": "vit", "patch": 64}},
        {"encoder": {"name": "resnet"}},
        {"data": {"source": "site", "channels": None}},
    ],
)
def test_a_model_that_cannot_be_built_is_not_counted(changes: dict[str, Any]) -> None:
    assert shared_count(asking(**changes)) is None


@pytest.mark.parametrize(("image_px", "told"), [(256, "as the run"), (512, "not as the run")])
def test_a_doctor_reads_whether_her_data_set_was_prepared_as_the_run_demands(
    tmp_path: Path, paint: Any, image_px: int, told: str
) -> None:
    for number in range(3):
        paint(tmp_path / f"in/{number}.png", seed=number)
    prepare(Order(sources=(tmp_path / "in",), dataset=tmp_path / "set"))
    source = Named(name="prepared", knobs={"path": str(tmp_path / "set")})
    lent = {"derm": replace(DATA["derm"], source=source)}
    data = {"source": {"name": "site", "dataset": "derm"}, "preparation": {"image_px": image_px}}

    rows = dict(summary(plan_of(asking(data=data)), Policy(), lent, now=NOON))

    assert rows["prepared"].startswith(told)
    assert ("image_px is 256, not 512" in rows["prepared"]) == (image_px == 512)
    assert "prepared" not in rows_of(plan_of(asking()))


@pytest.mark.parametrize("most", [None, 24])
def test_a_cap_of_training_is_not_told_as_one_of_scoring(most: int | None) -> None:
    lent = {"derm": replace(DATA["derm"], only_scored=True)}

    rows = dict(summary(plan_of(asking()), Policy(max_images=most), lent, now=NOON))

    assert "all may be scored on, none is ever trained on" in rows["data set"]
    assert "are used" not in rows["data set"]
    assert ("caps training alone" in rows["data set"]) == (most is not None)

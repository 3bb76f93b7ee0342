"""A federation fine-tunes from a release and scores itself, while its server is killed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from federation import POLICY, TINY, Federation, wait_until
from safetensors.torch import load_file

from confrere_client.hospital.plans import decide
from confrere_client.hospital.registry import add
from confrere_common.loading import parse_run
from confrere_common.weights import weights_digest
from confrere_deploy.families import ALL_FAMILIES
from confrere_deploy.federation.fetching import fetch, verify_release
from confrere_deploy.federation.submitting import (
    must_be_federable,
    signing_roster,
    started,
    warm_weights,
)
from confrere_deploy.release.export import Wishes, export, signing_key
from confrere_deploy.release.verify import verify
from confrere_server.membership.roster import read_roster
from confrere_server.runs.choosing import course_of
from confrere_server.runs.queue import Folder, submit

pytestmark = pytest.mark.long

ENCODER, NETWORK = "encoder.safetensors", "task.safetensors"


@pytest.fixture
def taught(standing: Federation) -> Iterator[Federation]:
    """Give alpha and beta images with labels, gamma some without; beta tells no counts."""
    before = {name: (standing.folder(name) / "policy.yaml").read_text() for name in standing.names}
    for name in standing.names:
        path = standing.folder(name) / "scans.npz"
        paint(path, seed=sum(name.encode()), labelled=name != "gamma")
        add(standing.folder(name), "scans", path, replace=True, one_image_per_patient=True)
        policy = {**POLICY, "evaluation": name != "beta"}
        (standing.folder(name) / "policy.yaml").write_text(yaml.safe_dump(policy))
    yield standing
    for name, text in before.items():
        (standing.folder(name) / "policy.yaml").write_text(text)


def paint(path: Path, *, seed: int, labelled: bool) -> None:
    generator = np.random.default_rng(seed)
    labels = np.arange(120) % 2
    level = 90 + 60 * labels[:, None, None, None]
    pixels = (level + generator.normal(0, 25, (120, 16, 16, 3))).clip(0, 255).astype(np.uint8)
    arrays: dict[str, Any] = {"train_images": pixels}
    if labelled:
        arrays["train_labels"] = np.array(["calm", "busy"])[labels]
    np.savez(path, **arrays)


def submitted(
    standing: Federation,
    *,
    masked: bool = False,
    rounds: int = 4,
    val_share: float = 0.15,
    **changes: Any,
) -> Folder:
    """Submit a fine-tuning from an earlier run's encoder, as the coordinator does."""
    start = next(run.path for run in standing.runs if (run.path / ENCODER).exists()) / ENCODER
    plain = {key: value for key, value in TINY.items() if key != "method"}
    plain |= {"name": "tuned", "stage": "finetune"}
    plain["data"] = {**TINY["data"], "source": {"name": "site", "dataset": "scans"}}
    plain["data"] |= {"val_share": val_share}
    plain["train"] = {**TINY["train"], "lr": 0.01, "steps_per_round": 8}
    plain["federation"] = {"rounds": rounds, "min_sites": 3 if masked else 2, "quorum": 1.0}
    if masked:
        plain["secure_aggregation"] = {"threshold": 0.75}
    plain["finetune"] = {
        "start": str(start), "classes": ["busy", "calm"], "evaluation": {"every": 2}, **changes,
    }  # fmt: skip
    run, release = started(parse_run(plain, ALL_FAMILIES), Path(), None)
    roster = signing_roster(read_roster(standing.workspace)) if masked else {}
    must_be_federable(run, roster)
    warm = warm_weights(run, release)
    made = submit(standing.workspace.runs, run, warm=warm, roster=roster)
    standing.runs.append(made)
    return made


def approve(standing: Federation, run: Folder) -> None:
    for name in standing.names:
        plan = standing.folder(name) / "plans" / run.path.name / "proposal.json"
        wait_until(plan.exists, 60, f"the plan came to {name}")
        decide(standing.folder(name), run.path.name, "approve", "dpo")


def released(fetched: Path) -> str:
    """Export what was fetched, and return what its verification says."""
    signer, _ = signing_key(fetched.parent / "export.key")
    export(fetched, fetched.parent / "release", signer, Wishes())
    return verify(fetched.parent / "release", fetched.parent / "export.pub")


def test_sites_fine_tune_a_release_and_count_how_it_does_through_a_server_s_death(
    taught: Federation, tmp_path: Path
) -> None:
    run = submitted(taught)
    approve(taught, run)
    wait_until(lambda: taught.closed(run), 60)
    taught.kill("server")
    taught.start_server()
    taught.wait(run, 120)

    fetch(taught.workspace, run, tmp_path / "out")
    said = verify_release(tmp_path / "out", tmp_path / "out/coordinator.pub")
    report = json.loads((tmp_path / "out/report.json").read_text())
    found = report["evaluation"]
    whys = {site["site"]: site.get("refused", "") for site in found["sites"]}
    assert {ENCODER, "task.safetensors", "evaluation.json"} <= said["files"].keys()
    assert "the coordinator's seal is sound" in released(tmp_path / "out")
    assert f"{found['auc']:.3f} | " in (tmp_path / "release/card.md").read_text()
    assert found["round"] == 4
    assert found["course"].keys() == {"2", "4"}
    assert found["auc"] > 0.8
    assert whys["alpha"] == ""
    assert "lets nothing of a model's scores" in whys["beta"]
    assert "no marked patient held out" in whys["gamma"]
    assert [site["site"] for site in report["sites"] if site["images"]] == ["alpha", "beta"]
    assert len(taught.closed(run)) == 4
    assert {row["refused"] for row in taught.events("server", "answered", run)} >= {"no-labels"}
    smallest_cell_is_of_ten(run)
    for who in ("server", *taught.names):
        assert not taught.checked(who).faults


def smallest_cell_is_of_ten(run: Folder) -> None:
    for path in (run.path / "evaluations").glob("round-*.json"):
        told = json.loads(path.read_text())["sites"]["alpha"]
        counts = [
            n for one in told["tallies"] for s in ("positives", "negatives") for *_, n in one[s]
        ]
        assert told["smallest"] >= 10
        assert min(counts) >= 10


def test_a_policy_without_fine_tuning_refuses_it_and_says_why(taught: Federation) -> None:
    path = taught.folder("alpha") / "policy.yaml"
    path.write_text(yaml.safe_dump({**POLICY, "stages": ["pretrain"]}))

    run = submitted(taught)

    codes = lambda: {f["site"]: f["code"] for f in taught.events("server", "standing", run)}  # noqa: E731
    wait_until(lambda: codes().get("alpha") and codes().get("beta"), 60)
    assert codes()["alpha"] == "policy-stage"
    assert codes()["beta"] == "not-approved"
    run.ask_for("stop")
    taught.wait(run, 20, "stopped")


def test_a_head_may_stay_at_its_site(taught: Federation, tmp_path: Path) -> None:
    run = submitted(taught, head="local")
    approve(taught, run)
    taught.wait(run, 90)

    told = json.loads((run.path / "evaluations/round-0004.json").read_text())["sites"]
    assert not (run.path / "task.safetensors").exists()
    assert (run.path / ENCODER).exists()
    assert told["alpha"]["tallies"]
    assert told["gamma"] == "nothing-to-score"
    fetch(taught.workspace, run, tmp_path / "out")
    assert "the coordinator's seal is sound" in released(tmp_path / "out")


def test_the_round_that_is_best_on_validation_patients_is_published_after_a_server_s_death(
    taught: Federation, tmp_path: Path
) -> None:
    """Under secure aggregation, which hides updates: what is told of scores goes beside the sum."""
    for name in taught.names:
        path = taught.folder(name) / "scans.npz"
        paint(path, seed=sum(name.encode()), labelled=True)
        add(taught.folder(name), "scans", path, replace=True, one_image_per_patient=True)
    run = submitted(
        taught, masked=True, val_share=0.25, patience=1, evaluation={"every": 6}, rounds=6
    )
    approve(taught, run)
    wait_until(lambda: course_of(run).heard, 90, "a round is validated")
    taught.kill("server")
    taught.start_server()
    taught.wait(run, 200)

    fetch(taught.workspace, run, tmp_path / "out")
    report = json.loads((tmp_path / "out/report.json").read_text())
    (course,) = report["courses"]
    told = course_of(run)
    closed = {facts["round"]: facts["weights"] for facts in taught.closed(run)}
    (chosen,) = {facts["weights"] for facts in taught.events("server", "chosen", run)}
    heard = {site: said for told in told.heard.values() for site, said in told.items()}
    scores = {int(number): score for number, score in course["scores"].items()}
    assert chosen == closed[told.best] == weights_digest(load_file(tmp_path / "out" / NETWORK))
    assert course["best"] == told.best == max(scores, key=lambda n: (scores[n], -n))
    assert len(closed) in (told.best + 1, 6)  # patience of one round
    assert {site for site, said in heard.items() if not isinstance(said, str)} == {"alpha", "gamma"}
    assert heard["beta"] == "policy-evaluation"
    assert any("'beta' told no score" in warning for warning in report["warnings"])
    assert len(taught.events("alpha", "score leaves", run)) == len(closed)
    assert taught.events("alpha", "update leaves", run) == []
    for who in ("server", *taught.names):
        assert not taught.checked(who).faults

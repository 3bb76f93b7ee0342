"""A private round at a hospital: paid from its ledger, refused where a promise cannot be kept."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from scored import told
from served import enrolled, federated, make_study, served

from confrere_client.daemon.errand import Errand, errand_key, spool
from confrere_client.daemon.outbox import Outbox
from confrere_client.hospital.registry import add, registered
from confrere_client.hospital.site import SiteFolder
from confrere_client.privacy.budget import Ledger
from confrere_common.config import Run
from confrere_common.exchange import Task
from confrere_common.loading import dump
from confrere_common.model import build_model, shared_weights
from confrere_common.privacy.settings import Privacy

KNOBS = {"images": 24, "patients": 12, "sites": 1, "image_px": 16}
SETTINGS = Privacy(epsilon=8, patients_per_step=6, micro_batch=4)


@pytest.fixture
def site(tmp_path: Path) -> SiteFolder:
    with served(make_study(tmp_path / "study")) as server:
        found = enrolled(server.workspace, tmp_path / "site", "north", "{min_images: 4}")
    add(found.folder, "ward", "", source="phantom", knobs=KNOBS)
    return found


def private_run() -> Run:
    return replace(federated(rounds=2), privacy=SETTINGS)


def errand(site: SiteFolder, round: int = 1) -> Errand:
    run = private_run()
    weights = shared_weights(build_model(run, seed=0))
    task = Task(run=dump(run), round=round, seed=0, weights=weights)
    return spool(site.folder / "spool", "run-1", task, errand_key("run-1", task))


def test_a_private_round_is_paid_and_its_ledger_s_head_is_in_the_audit_log(
    site: SiteFolder,
) -> None:
    asked = errand(site)

    said = told(site, asked)

    ledger = Ledger(path=site.ledger, witness=site.ledger_witness)
    update = Outbox(folder=site.outbox, key=site.outbox_key()).get(asked.key)
    rows = [json.loads(line) for line in site.audit.read_text().splitlines()]
    heads = [row["facts"] for row in rows if row["event"] == "ledger head"]
    assert said == {"errand": asked.key, "done": True}
    assert 0 < ledger.spent("ward", 1e-5) <= SETTINGS.epsilon
    assert heads[-1]["head"] == ledger.head()[1]
    assert update is not None
    assert update.metrics == {}
    assert update.images == registered(site.folder)["ward"].images


def test_patients_who_are_not_known_are_promised_nothing(site: SiteFolder) -> None:
    text = (site.folder / "data.yaml").read_text()
    (site.folder / "data.yaml").write_text(
        text.replace("unknown_patients: 0", "unknown_patients: 3")
    )

    said = told(site, errand(site))

    assert said["refused"] == "privacy"
    assert not site.ledger.exists()


def test_images_chosen_by_their_names_are_not_lent_to_a_private_run(site: SiteFolder) -> None:
    site.policy.write_text("{min_images: 4, max_images: 8}")

    said = told(site, errand(site))

    assert said["refused"] == "privacy"

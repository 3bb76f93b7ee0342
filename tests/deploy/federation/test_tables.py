"""What people read on a terminal: nothing that came from outside can draw, hide or break it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from loopback import make_workspace, serving
from rich.console import Console
from served import federated

from confrere_client.hospital.join import join
from confrere_client.hospital.plans import decide, receive
from confrere_client.hospital.registry import Registered
from confrere_client.hospital.site import SiteFolder, open_site
from confrere_common.code import code_digest
from confrere_common.family import Named
from confrere_common.loading import dump
from confrere_common.proposal import Proposal
from confrere_deploy.federation.tables import (
    data_table,
    plan_table,
    run_panel,
    runs_table,
    site_panels,
    sites_table,
)
from confrere_server.membership.roster import invite, read_roster, revoke
from confrere_server.runs.queue import Folder, Standing, submit

HOSTILE = "[/nope] [red]hidden[/red] [link=http://x]y[/link]"


def shown(*renderables: Any) -> str:
    console = Console(width=220, markup=False, highlight=False, soft_wrap=True)
    with console.capture() as caught:
        for one in renderables:
            console.print(one)
    return caught.get()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SiteFolder:
    folder = tmp_path_factory.mktemp("home")
    with serving(make_workspace(folder / "study")) as workspace:
        join(invite(workspace, "north"), folder / "site")
    (folder / "site" / "policy.yaml").write_text("{}")
    return open_site(folder / "site")


def proposal(**changes: Any) -> Proposal:
    plain = Proposal(
        run_id="run-1", study="eyes", run=dump(federated()), code=code_digest(), sites=3,
        bytes_down=2**20, bytes_up=2**20, seed=0,
    )  # fmt: skip
    return replace(plain, **changes)


def test_a_roster_lists_each_site_and_how_it_stands(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "study")
    for name in ("north", "south"):
        invite(workspace, name)
    revoke(workspace, "south", HOSTILE)

    text = shown(sites_table(read_roster(workspace)))

    assert "north" in text
    assert "revoked" in text


def test_a_run_shows_round_sites_time_and_why(tmp_path: Path) -> None:
    folder = submit(tmp_path, federated(rounds=9))
    sites = {
        "away": {"standing": "approved", "code": "", "images": 5, "online": False},
        "busy": {"standing": "approved", "images": 7, "online": True, "round": 4, "loss": 0.25},
        "done": {"standing": "approved", "online": True, "round": 4, "answered": True},
        "shy": {"standing": "waiting", "code": "not-approved", "online": True},
        "no": {"standing": "approved", "round": 4, "refused": HOSTILE},
    }
    standing = Standing(
        state="training", why=HOSTILE, round=3, rounds=9, sites=sites, bytes_up=3 * 2**20,
        eta_s=3700.4, loss=0.123456,
    )  # fmt: skip
    folder.stand(standing)

    text = shown(run_panel(folder), runs_table([folder]))

    for part in ("round 3 of 9", "0.1235", "3.0 MiB", "1:01:40", "at work on 4", "answered"):
        assert part in text
    assert "Nobody at the hospital has approved the plan yet" in text
    assert text.count(HOSTILE) >= 2


def test_a_run_of_which_nothing_is_known_yet_is_shown(tmp_path: Path) -> None:
    text = shown(run_panel(Folder(path=tmp_path)), runs_table([]))

    assert "queued" in text


def test_data_sets_are_listed() -> None:
    entry = Registered(
        name="derm", source=Named(name="npz", knobs={"path": "/secret"}), images=9, patients=3
    )

    text = shown(data_table({"derm": entry}))

    assert "derm" in text
    assert "9" in text
    assert "secret" not in text


def test_a_plan_shows_what_came_as_plain_marks(site: SiteFolder) -> None:
    hostile = json.loads(dump(federated())) | {"name": "x\x1b[2J\x1b[31m" + HOSTILE}
    receive(site.folder, proposal(run_id="hostile", run=json.dumps(hostile), study=HOSTILE))
    receive(site.folder, proposal(run_id="rubbish", run="{}"))
    receive(site.folder, proposal())

    texts = [shown(plan_table(site, name)) for name in ("hostile", "rubbish", "run-1")]

    for text in texts:
        assert "\x1b" not in text
        assert "digest" in text
    assert "simmim" in texts[2]
    assert "problem" in texts[1]


def test_plans_are_listed_with_what_was_decided(site: SiteFolder) -> None:
    receive(site.folder, proposal(run_id="run-2"))
    decide(site.folder, "run-2", "deny", "somebody", HOSTILE)

    text = shown(*site_panels(site))

    assert "run-2" in text
    assert "denied" in text
    assert "somebody" in text


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (None, "does not run"),
        ("rubbish", "does not run"),
        ("[]", "does not run"),
        ('"x"', "does not run"),
        ('{"stopped": true}', "does not run"),
        ('{"connected": true, "at": "now", "pid": 7}', "connected (as of now, process 7)"),
        ('{"connected": false, "fault": "[/nope]"}', "not connected: [/nope]"),
        ('{"connected": true, "paused": true}', "everything is declined"),
        ('{"connected": true, "training": {"run": "r", "step": 2, "steps": 9}}', "step 2 of 9"),
        ('{"connected": true, "training": {"step": 2}}', "step 2 of None"),
    ],
)
def test_the_daemon_is_shown_as_it_says(site: SiteFolder, status: str | None, said: str) -> None:
    site.status.unlink(missing_ok=True)
    if status is not None:
        site.status.write_text(status)

    assert said in shown(*site_panels(site))

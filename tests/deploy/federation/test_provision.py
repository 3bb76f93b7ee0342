"""A whole federation on one machine: made as a real one is, and gone without trace."""

import json
import socket
import sys
from pathlib import Path

import pytest
from served import until

from confrere_client.hospital.policy import read_policy
from confrere_client.hospital.registry import registered
from confrere_client.hospital.site import open_site
from confrere_common.chain import verify
from confrere_common.errors import ConfigError, ConfrereError
from confrere_deploy.federation import provision as module
from confrere_deploy.federation.provision import (
    Data,
    Demo,
    free_port,
    phantom,
    provision,
    running,
    table,
)
from confrere_server.membership.roster import read_roster
from confrere_server.membership.workspace import open_workspace
from confrere_server.watch.health import is_healthy

ONE = Data(
    source="phantom",
    path="",
    knobs={"modality": "lesion", "images": 40, "patients": 20, "sites": 2},
    only_sites=[None],
)


def test_each_phantom_hospital_lends_an_acquisition_site_of_its_own() -> None:
    data = phantom(3)

    assert data.source == "phantom"
    assert len(set(data.only_sites)) == 3
    assert None not in data.only_sites


def test_a_table_of_ones_own_is_shared_out_by_site(tmp_path: Path) -> None:
    rows = ["path,patient,site"] + [f"{n}.png,p{n},{'abc'[n % 3]}" for n in range(9)]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(rows))

    assert table(path, {}, 2).only_sites == ["a", "b"]
    assert table(path, {}, 3).only_sites == ["a", "b", "c"]
    assert table(path, {}, 4).only_sites == [None] * 4
    assert table(path, {}, 2).source == "catalog"


@pytest.mark.parametrize("name", ["nowhere", "nowhere.npz", "empty"])
def test_data_that_is_not_there_is_a_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()

    with pytest.raises(ConfrereError):
        table(tmp_path / name, {}, 2)


def test_a_free_port_can_be_listened_on() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as found:
        assert found.getsockname()[1] > 0


def test_nothing_is_made_where_something_is(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "mine").write_text("kept")

    with pytest.raises(ConfigError, match="not empty"):
        provision(tmp_path / "demo", ONE, say=print)
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["mine"]


def test_a_server_that_does_not_start_is_told_and_nothing_is_left_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    made: list[Demo] = []
    start = Demo.start

    def noted(demo: Demo, name: str) -> None:
        made.append(demo)
        start(demo, name)

    monkeypatch.setattr(module.Demo, "start", noted)

    with pytest.raises(ConfigError, match=r"did not start: see .*coordinator\.log"):
        provision(tmp_path / "demo", ONE, say=lambda _: None)
    assert made[0].processes == {}


def test_a_federation_comes_up_and_goes_down(tmp_path: Path) -> None:
    said: list[str] = []
    with running(provision(tmp_path / "demo", ONE, say=said.append)) as demo:
        processes = dict(demo.processes)
        site = open_site(demo.site("hospital-1"))
        until(lambda: site.status.exists() and json.loads(site.status.read_text()), 40)
        until(lambda: json.loads(site.status.read_text()).get("connected"), 40)
        roster = read_roster(open_workspace(demo.coordinator))
        healthy = is_healthy(demo.coordinator)

    assert processes.keys() == {"coordinator", "hospital-1"}
    assert healthy
    assert roster.sites["hospital-1"].state == "active"
    assert registered(site.folder)["demo"].images > 0
    assert read_policy(site.policy).preapproved == ()
    assert {process.poll() for process in processes.values()} == {0}
    assert not is_healthy(demo.coordinator, timeout_s=0.5)
    workspace = open_workspace(demo.coordinator)
    for audit, key in (
        (workspace.audit, workspace.signing_key()),
        (site.audit, site.signing_key()),
    ):
        assert verify(audit, key.public_key()).faults == ()
    for name in ("coordinator", "hospital-1"):
        assert "Traceback" not in (demo.folder / f"{name}.log").read_text()
    assert any("has joined" in line for line in said)

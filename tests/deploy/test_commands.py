"""Bad input of every command ends in one clear message and exit code 2, never a traceback."""

import json
from pathlib import Path

import click
import numpy as np
import pytest
import typer
from loopback import free_port, make_workspace, serving
from served import federated
from typed import Typed, typed

from confrere_client.hospital.join import join
from confrere_client.hospital.policy import Policy, policy_text
from confrere_common.loading import dump
from confrere_deploy import cli
from confrere_server.membership.roster import invite
from confrere_server.runs.queue import submit

RUBBISH = b"\xff\xfe\x00rubbish: [\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a coordinator's workspace, a site's folder and a run."""
    folder = tmp_path_factory.mktemp("home")
    with serving(make_workspace(folder / "study")) as workspace:
        join(invite(workspace, "north"), folder / "site")
    (folder / "site" / "policy.yaml").write_text(policy_text(Policy()))
    (folder / "run.yaml").write_text(dump(federated()))
    (folder / "bad.yaml").write_bytes(RUBBISH)
    (folder / "file").write_text("x")
    (folder / "images").mkdir()
    submit(workspace.runs, federated())
    return folder


def is_one_message(done: Typed) -> bool:
    assert done.code == 2, (done.code, done.out, done.err)
    assert done.err.strip(), done.out
    assert "Traceback" not in done.err + done.out
    return True


SERVER = {
    "init": ["", "new", "new --name x", "new --name x --address nowhere",
             "new --name x --address x:0",
             "new --name x --address a:99999", "new --name '[/x] y' --address a:1",
             "new --name '' --address a:1", "study --name x --address a:1",
             "file --name x --address a:1"],
    "invite": ["", "'Bad Name' -d study", "../x -d study", "x -d nowhere", "x -d file",
               "x -d study --hours 0", "x -d study --hours nan", "x -d study --hours inf",
               "x -d study --hours soon", "north -d study", "x -d study --out file",
               "x -d study --out file/token"],
    "sites": ["-d nowhere", "-d file", "extra -d study"],
    "revoke": ["", "nobody -d study", "'' -d study", "north -d nowhere"],
    "renew": ["-d nowhere"],
    "roster": ["-d nowhere"],
    "rollover begin": ["-d nowhere", "-d study extra"],
    "rollover switch": ["-d nowhere", "-d study"],
    "rollover finish": ["-d nowhere", "-d study"],
    "start": ["-d nowhere"],
    "health": ["--odd"],
    "doctor": ["-d nowhere"],
    "observer-token": ["-d nowhere"],
    "submit": ["", "nowhere.yaml -d study", "bad.yaml -d study", "file -d study", "images -d study",
               "run.yaml -d nowhere", "run.yaml -d study --set x",
               "run.yaml -d study --set a.b.c=1",
               "run.yaml -d study --set train.lr=-1", "run.yaml -d study --set 'name=[a'",
               "run.yaml -d study --set data.source=phantom", "run.yaml -d study --set seeds=[1,2]",
               "run.yaml -d study --set data.channels=null",
               "run.yaml -d study --set method=simcrl",
               "run.yaml -d study --warm-start nowhere", "run.yaml -d study --warm-start file",
               "run.yaml -d study --warm-start images"],
    "runs": ["-d nowhere"],
    "status": ["", "nope -d study", "'' -d nowhere", "'[/x]' -d study"],
    "stop": ["", "nope -d study"],
    "clear": ["", "nope north -d study", "tiny nobody -d study"],
    "resume": ["", "nope -d study", "tiny -d study"],
    "fetch": ["", "nope -d study", "tiny -d study", "tiny -d study --out file"],
    "logs": ["", "nope -d study"],
    "audit verify": ["-d nowhere", "-d study --witness nowhere", "-d study --witness file"],
    "audit heads": ["-d nowhere"],
}  # fmt: skip
CLIENT = {
    "join": ["", "rubbish", "'' -d new", "file -d new", "bad.yaml -d new", "images -d new",
             "eyJ4IjogMX0 -d new"],
    "data add": ["", "derm nowhere -d site", "derm file -d site", "derm bad.yaml -d site",
                 "'Bad Name' images -d site", "derm images -d site", "derm images -d nowhere",
                 "derm images -d site --modality nose", "derm images -d site --source nope",
                 "derm images -d site --set x", "derm images -d site --set 'x=[a'",
                 "derm images -d site --set =1", "derm images -d site --set odd=1",
                 "derm '' -d site --source phantom --set images=many", "derm '' -d site"],
    "data list": ["-d site extra"],
    "prepare": ["", "nowhere", "images --out new", "bad.yaml --out file/x",
                "file --out new --modality nose", "file --jobs 0",
                "file --out new --set x", "file --out new --spacing-mm a", "--check-phi",
                "file --out new --catalog nowhere", "--out nowhere --check-phi"],
    "policy": ["-d nowhere"],
    "start": ["-d nowhere", "-d file"],
    "status": ["-d nowhere"],
    "plan": ["", "nope -d site", "../../x -d site", "'' -d site"],
    "approve": ["", "nope -d site", "nope -d nowhere"],
    "deny": ["", "nope -d site"],
    "pause": ["-d nowhere"],
    "unpause": ["-d nowhere"],
    "ledger": ["-d nowhere", "-d site --out file/x"],
    "mend": ["-d nowhere"],
    "audit show": ["-d nowhere", "-d site --last many"],
    "audit verify": ["-d nowhere"],
    "doctor": ["-d nowhere"],
    "renew": ["-d nowhere"],
}  # fmt: skip
PROVISION = {
    "demo": ["--sites 1", "--sites 99", "--sites many", "-d study", "-d file",
             "-d new --data nowhere",
             "-d new --data file", "-d new --data images", "-d new --port -5",
             "-d new --port 99999", "-d new --set 'x=[a' --data images"],
}  # fmt: skip
EVERY = {"server": SERVER, "client": CLIENT, "provision": PROVISION}


def commands(app: typer.Typer) -> set[str]:
    def below(found: click.Command, name: str) -> set[str]:
        if isinstance(found, click.Group):
            return {n for key, one in found.commands.items() for n in below(one, f"{name} {key}")}
        return {name.strip()}

    return below(typer.main.get_command(app), "")


def test_every_command_of_both_roles_is_tried_here() -> None:
    there = {name for name in commands(cli.app) if name.split()[0] in EVERY}

    tried = {f"{role} {name}" for role, tries in EVERY.items() for name in tries}
    assert there == tried


@pytest.mark.parametrize(
    "command", [f"{role} {name}" for role, tries in EVERY.items() for name in tries]
)
def test_bad_input_is_one_message(
    home: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("COLUMNS", "200")
    role, _, name = command.partition(" ")
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}

    for words in EVERY[role][name]:
        assert is_one_message(typed(f"{command} {words}")), words

    kept = {path for path in before if ".lock" not in path.name}
    after = {path for path in home.rglob("*") if path.is_file() and ".lock" not in path.name}
    assert after == kept, f"'{command}' left something behind: {after ^ kept}"


@pytest.mark.parametrize("name", ["server.yaml", "roster.json", "keys/signing.key", "ca/root.crt",
                                  "keys/server.crt", "ca/issuing.crt"])  # fmt: skip
def test_a_damaged_workspace_is_one_message(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_workspace(tmp_path / "study")
    (tmp_path / "study" / name).write_bytes(RUBBISH)
    monkeypatch.chdir(tmp_path)

    codes = []
    for command in ("sites", "invite north", "renew", "roster", "audit verify", "runs", "logs x"):
        done = typed(f"server {command} -d study")
        assert "Traceback" not in done.err
        assert (done.code == 2) == bool(done.err.strip()), (command, done)
        codes.append(done.code)
    assert 2 in codes


@pytest.mark.parametrize("name", ["site.yaml", "policy.yaml", "data.yaml", "status.json",
                                  "keys/site.crt", "keys/signing.key", "audit.jsonl"])  # fmt: skip
def test_a_damaged_site_is_one_message(
    home: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    shutil.copytree(home / "site", tmp_path / "site")
    (tmp_path / "site" / name).write_bytes(RUBBISH)
    monkeypatch.chdir(tmp_path)

    for command in (
        "status",
        "policy",
        "data list",
        "pause",
        "mend",
        "audit show",
        "audit verify",
        "renew",
    ):
        done = typed(f"client {command} -d site")
        assert "Traceback" not in done.err
        assert done.code in (0, 1, 2)
        assert (done.code == 2) == bool(done.err.strip()), (command, done)


def test_a_coordinator_gets_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "run.yaml").write_text(dump(federated()))
    port = free_port()

    made = typed(f"server init study --name eyes --address localhost:{port}")
    token = typed("server invite north -d study")
    to_file = typed("server invite south -d study --out south.token")
    listed = typed("server sites -d study")
    roster = typed("server roster -d study")
    queued = typed("server submit run.yaml -d study")
    run = queued.out.split(":")[0]
    one = typed(f"server status {run[:6]} -d study")
    stopped = typed(f"server stop {run} -d study")
    log = typed(f"server logs {run} -d study")
    revoked = typed("server revoke south --why 'left [/the] study' -d study")
    verified = typed("server audit verify -d study")
    observer = typed("server observer-token -d study")
    health = typed("server health -d study")

    done = (made, token, to_file, listed, roster, queued, one, stopped, log, revoked, verified)
    assert {each.code for each in done} == {0}, done
    assert "Next: confrere server invite" in made.out
    assert len(token.out.split()) == 1
    assert (tmp_path / "south.token").stat().st_mode & 0o777 == 0o600
    assert "north" in listed.out
    assert "signature sound" in roster.out
    assert "queued" in one.out
    assert "run submitted" in log.out
    assert "whole and in order" in verified.out
    assert len(observer.out.split()) == 1
    assert (health.code, health.out.strip()) == (1, "not serving")


def test_a_hospital_gets_along(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("COLUMNS", "200")
    knobs = "--set images=40 --set patients=10 --set sites=2"

    added = typed(f"client data add lesions '' -d site --source phantom {knobs}")
    listed = typed("client data list -d site")
    policy = typed("client policy -d site")
    status = typed("client status -d site")
    paused = typed("client pause -d site")
    again = typed("client unpause -d site")
    shown = typed("client audit show -d site")
    verified = typed("client audit verify -d site")

    done = (added, listed, policy, status, paused, again, shown, verified)
    assert {each.code for each in done} == {0}, done
    assert "'lesions': " in added.out
    assert "lesions" in listed.out
    assert "min_sites" in policy.out
    assert "does not run" in status.out
    assert "data registered" in shown.out
    rows = [
        json.loads(line)["event"] for line in (home / "site/audit.jsonl").read_text().splitlines()
    ]
    assert rows[-2:] == ["paused", "unpaused"]


def test_who_lends_images_for_scoring_alone_reads_what_cannot_be_scored(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    np.savez("tests.npz", test_images=np.zeros((12, 16, 16), np.uint8))

    added = typed("client data add held tests.npz -d site")

    assert "none is trained on them" in added.out
    assert "Anomaly and retrieval cannot be scored here" in added.out

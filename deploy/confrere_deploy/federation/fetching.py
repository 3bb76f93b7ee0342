"""What a coordinator takes from a finished run, and what the logs say of it."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from confrere_client.hospital.registry import printable
from confrere_common.chain import NO_WITNESS, Checked, verify
from confrere_common.codes import CODES, sentence_of
from confrere_common.config import Run
from confrere_common.errors import CheckpointError, ConfigError
from confrere_common.pki.keys import signing_public
from confrere_common.wire import HEAD
from confrere_deploy.description.report import write_described_report
from confrere_deploy.federation.federal_report import write_federal_report
from confrere_server.description.collecting import FILE, from_json, shared_from_json
from confrere_server.membership.seal import unseal
from confrere_server.membership.workspace import Workspace
from confrere_server.runs.publish import LEFT, RELEASE
from confrere_server.runs.queue import Folder
from confrere_server.runs.recall import site_heads

COORDINATOR = "coordinator.pub"
REPORT = ("report.json", "report.html")
BESIDE = (RELEASE, COORDINATOR, *REPORT)
"""What ``fetch`` brings beside the files that the coordinator sealed."""


def fetch(workspace: Workspace, folder: Folder, target: Path) -> list[Path]:
    """Copy a finished run's files to *target* and write its report beside them.

    What an earlier fetch left there of any run goes first: the seal does not cover it.
    """
    if folder.standing.state != "done":
        raise ConfigError(
            [f"it is {folder.standing.state}: there is a release once it is done."],
            folder.path.name,
        )
    if target.resolve() == folder.path.resolve():
        raise ConfigError(["is the run's own folder: name another with --out."], str(target))
    run, sealed = folder.order.parsed(), _sealed(folder)
    target.mkdir(parents=True, exist_ok=True)
    for name in (*LEFT, *BESIDE):
        (target / name).unlink(missing_ok=True)
    copied = [Path(shutil.copy2(folder.path / name, target / name)) for name in (*sealed, RELEASE)]
    key = Path(shutil.copy2(workspace.keys / "signing.pub", target / COORDINATOR))
    if run.stage == "describe":
        _write_described(run, target)
    else:
        write_federal_report(folder, target)
    return [*copied, key, *(target / name for name in REPORT)]


def _sealed(folder: Folder) -> list[str]:
    """Return the names of the files that the run left, as its own seal has them."""
    try:
        said = json.loads((folder.path / RELEASE).read_bytes())
        return sealed_names(said["release"])
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"{folder.path.name} has no {RELEASE} that can be read.") from None


def sealed_names(said: Mapping[str, Any]) -> list[str]:
    """Return the names of the files under a seal, each a plain name that leads nowhere else."""
    return [Path(name).name for name in said["files"]]


def _write_described(run: Run, target: Path) -> None:
    content = (target / FILE).read_bytes()
    told, _ = from_json(content)
    rounds: list[dict[str, Any]] = json.loads((target / "rounds.json").read_bytes())
    every = [site for record in rounds for site in record["sites"]]
    refused = {one["site"]: _spoken(one["refused"]) for one in every if one["refused"]}
    write_described_report(target, run, told, refused, shared_from_json(content))


def _spoken(refused: str) -> str:
    return sentence_of(refused) if refused in CODES else refused


def verify_release(folder: Path, key: Path) -> Mapping[str, Any]:
    """Return what a fetched release says of itself, once seal and files have been checked.

    Guarantee: a release whose files or words were changed since the coordinator sealed them gives
    CheckpointError; *key* must come from the coordinator by another way than the release.
    """
    try:
        content, pem = (folder / RELEASE).read_bytes(), key.read_bytes()
    except OSError as fault:
        raise CheckpointError(f"{fault.filename} cannot be read: {fault.strerror}.") from None
    said = unseal("release", content, signing_public(pem))
    for name, due in said["files"].items():
        path = folder / Path(name).name
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
        if found != due:
            raise CheckpointError(f"{path} is not the file that was sealed: fetch it again.")
    return said


def rows_of(log: Path, run: str) -> list[str]:
    """Return the log's rows as lines, those of one run where *run* is not empty."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            row = json.loads(line)
            facts, head = dict(row["facts"]), f"{row['at'][:19]}  {row['event']:<24}"
        except (ValueError, KeyError, TypeError):
            found.append("(a line that cannot be read; see audit verify)")
            continue
        if not run or facts.get("run") == run:
            told = "  ".join(f"{key}={value}" for key, value in facts.items() if key != "run")
            found.append(printable(f"{head} {told}", 2000))
    return found


def checked(log: Path, key: Ed25519PublicKey, witnessed: Mapping[int, str] = NO_WITNESS) -> Checked:
    """Return what a check of the whole log finds, held against the heads that others kept."""
    return verify(log, key, witnessed)


def witness_in(path: Path) -> Mapping[int, str]:
    """Return the head in a file, length -> hash: ``{"length": n, "head": h}``, or a release.json.

    Of a release it is the coordinator's own head. ConfigError when the file holds neither.
    """
    try:
        said = json.loads(path.read_bytes())
        said = said.get("release", said)
        said = said.get("server_head", said)
        length, head = said["length"], said["head"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        length, head = 0, ""
    if (
        type(length) is not int
        or length < 1
        or not isinstance(head, str)
        or not HEAD.fullmatch(head)
    ):
        fault = 'holds no head: {"length": ROWS, "head": 64 HEXADECIMAL DIGITS}, or a release.json.'
        raise ConfigError([fault], str(path))
    return {length: head}


def heads_told(log: Path) -> list[str]:
    """Return, a line for each site, the last that it said of its own log, as a witness file has it.

    A site that told none is not among them.
    """
    return [
        printable(f"{site}  {json.dumps({'length': length, 'head': head})}", 300)
        for site, (length, head) in sorted(site_heads(log).items())
    ]

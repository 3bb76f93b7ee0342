"""What a coordinator takes from a finished run, and what the logs say of it."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from confrere_client.hospital.registry import printable
from confrere_common.chain import Checked, verify
from confrere_common.errors import CheckpointError, ConfigError
from confrere_common.pki.keys import signing_public
from confrere_deploy.federation.federal_report import write_federal_report
from confrere_server.membership.seal import unseal
from confrere_server.membership.workspace import Workspace
from confrere_server.runs.queue import Folder

FILES = ("encoder.safetensors", "encoder.json", "release.json", "rounds.json")


def fetch(workspace: Workspace, folder: Folder, target: Path) -> list[Path]:
    """Copy a finished run's files to *target* and write its report beside them."""
    if folder.standing.state != "done":
        raise ConfigError(
            [f"it is {folder.standing.state}: there is a release once it is done."],
            folder.path.name,
        )
    target.mkdir(parents=True, exist_ok=True)
    copied = [Path(shutil.copy2(folder.path / name, target / name)) for name in FILES]
    key = Path(shutil.copy2(workspace.keys / "signing.pub", target / "coordinator.pub"))
    write_federal_report(folder, target)
    return [*copied, key, target / "report.json", target / "report.html"]


def verify_release(folder: Path, key: Path) -> Mapping[str, Any]:
    """Return what a fetched release says of itself, once seal and files have been checked.

    Guarantee: a release whose files or words were changed since the coordinator sealed them gives
    CheckpointError; *key* must come from the coordinator by another way than the release.
    """
    try:
        content, pem = (folder / "release.json").read_bytes(), key.read_bytes()
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


def checked(log: Path, key: Ed25519PublicKey) -> Checked:
    """Return what a check of the whole log finds."""
    return verify(log, key)

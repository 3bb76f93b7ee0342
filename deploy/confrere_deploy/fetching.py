"""What a coordinator takes from a finished run, and what the logs say of it."""

import json
import shutil
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from confrere_common.chain import Checked, verify
from confrere_common.errors import ConfigError
from confrere_server.queue import Folder
from confrere_server.workspace import Workspace

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
    return [*copied, key]


def rows_of(log: Path, run: str) -> list[str]:
    """Return the log's rows as lines, those of one run where *run* is not empty."""
    try:
        lines = log.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            row = json.loads(line)
            facts = dict(row["facts"])
        except (ValueError, KeyError, TypeError):
            found.append("(a line that cannot be read; see audit verify)")
            continue
        if not run or facts.get("run") == run:
            told = "  ".join(f"{key}={value}" for key, value in facts.items() if key != "run")
            found.append(f"{row['at'][:19]}  {row['event']:<24} {told}")
    return found


def checked(log: Path, key: Ed25519PublicKey) -> Checked:
    """Return what a check of the whole log finds."""
    return verify(log, key)

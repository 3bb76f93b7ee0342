"""A network is asked as the command asks it; what it wrote is read back."""

from pathlib import Path
from typing import Any

import pyarrow.csv as pa_csv
from typer.testing import CliRunner

from confrere_deploy.cli import app


def ask(release: Path, source: Path, out: Path, *words: Any) -> str:
    """Ask by the command, which must succeed; return what it said."""
    said, code = told("predict", release, source, "--out", out, "--device", "cpu", *words)
    assert code == 0, said
    return said


def told(*words: Any) -> tuple[str, int]:
    """Return what a command said, its fault included, and how it ended."""
    result = CliRunner().invoke(app, [*map(str, words)])
    fault = "" if result.exception is None else f"{result.exception}"
    return f"{result.output}{fault}", result.exit_code


def table(path: Path) -> dict[str, list[Any]]:
    """Return the columns of a CSV table."""
    found: dict[str, list[Any]] = pa_csv.read_csv(path).to_pydict()
    return found

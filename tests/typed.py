"""The command line in this process, as ``main`` runs it: what it prints, and its exit code."""

import logging
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from typer.testing import CliRunner

from confrere_deploy import cli
from confrere_deploy.commands import client, provision, server

OURS = ("confrere_common", "confrere_server", "confrere_client", "confrere_deploy")


@dataclass(frozen=True)
class Typed:
    """What a command answered."""

    code: int
    out: str
    err: str


def typed(line: str) -> Typed:
    """Run ``confrere LINE``; an exception that would show as a traceback is raised here."""
    runner = CliRunner()
    with _as_it_was(line), runner.isolation() as streams:
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        sys.stdout.flush()
        sys.stderr.flush()
        out, err = (stream.getvalue().decode() for stream in streams[:2])
    return Typed(code, out, err)


@contextmanager
def _as_it_was(line: str) -> Iterator[None]:
    """Bring back afterwards what ``main`` changes for the whole process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["confrere", *shlex.split(line)])
        for module in (cli, client, server, provision):  # they hold the stream of their import
            patch.setattr(module.console, "_file", None)
        kept = {name: vars(logging.getLogger(name)).copy() for name in OURS}
        try:
            yield
        finally:
            for name, before in kept.items():
                vars(logging.getLogger(name)).update(before)

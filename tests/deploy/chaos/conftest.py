"""A frozen copy of the sources, and a federation that stands while several tests use it."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from federation import Federation, federation, freeze, wait_until

from confrere_server.runs.queue import OPEN


@pytest.fixture(scope="session")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return freeze(tmp_path_factory.mktemp("snapshot"))


@pytest.fixture(scope="session")
def _opened(tmp_path_factory: pytest.TempPathFactory, snapshot: Path) -> Iterator[Federation]:
    with federation(tmp_path_factory.mktemp("standing"), snapshot) as made:
        made.open()
        # Once through: from here on every worker is warm.
        made.wait(made.submit("warm", 1), 150)
        yield made


@pytest.fixture
def standing(_opened: Federation) -> Iterator[Federation]:
    """Return a server and three sites at work; what a test broke is mended after it."""
    yield _opened
    for name in _opened.names:
        if _opened.wires[name].state != "open":
            _opened.wires[name].mend(drop=True)
        (_opened.folder(name) / "paused").unlink(missing_ok=True)
    for who in ("server", *_opened.names):
        _opened.signal(who, signal.SIGCONT)
        if not _opened.up(who):
            _opened.start(who)
    for run in _opened.runs:
        if run.standing.state in OPEN:
            run.ask_for("stop")
    with contextlib.suppress(TimeoutError):
        wait_until(lambda: all(r.standing.state not in OPEN for r in _opened.runs), 60)

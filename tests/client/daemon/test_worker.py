import errno
import os
import subprocess
import sys
from pathlib import Path

from confrere_client.daemon.errand import errand_key
from confrere_client.daemon.outbox import Outbox
from confrere_client.daemon.worker import _code
from confrere_common.errors import CheckpointError, PrivacyError
from confrere_common.exchange import Task


def test_a_state_that_a_full_disk_refused_is_told_as_a_full_disk() -> None:
    fault = CheckpointError("round 3 could not be saved")
    fault.__cause__ = OSError(errno.ENOSPC, "No space left on device", "/home/SMITH^JOHN")

    assert _code(fault) == "disk-full"
    assert _code(CheckpointError("damaged")) == "internal"


def test_a_fault_with_a_code_of_its_own_keeps_it_whatever_caused_it() -> None:
    fault = PrivacyError("the ledger is broken", code="ledger-broken")
    fault.__cause__ = OSError(errno.ENOSPC, "No space left on device")

    assert _code(fault) == "ledger-broken"


def test_a_worker_whose_parent_is_gone_ends_before_it_does_anything(tmp_path: Path) -> None:
    stranger = str(os.getppid())

    ended = subprocess.run(
        [sys.executable, "-m", "confrere_client.daemon.worker", tmp_path, stranger],
        stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60,
    )  # fmt: skip

    assert ended.returncode == 1
    assert ended.stdout == b""
    assert list(tmp_path.iterdir()) == []


def test_equal_tasks_of_two_runs_have_answers_of_their_own() -> None:
    task = Task(run="{}", round=1, seed=0, weights={})

    assert errand_key("one", task) == errand_key("one", task) != errand_key("two", task)


def test_what_a_crash_left_half_written_in_the_outbox_goes_with_the_next_that_arrives(
    tmp_path: Path,
) -> None:
    outbox = Outbox(folder=tmp_path, key=bytes(32))
    for name in ("old.part", "old.box", "new.box"):
        (tmp_path / name).touch()

    outbox.drop_all_but("new")

    assert [path.name for path in tmp_path.iterdir()] == ["new.box"]

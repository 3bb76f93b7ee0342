"""The audit log.

``chain.verify``: "Guarantee: a row that was edited (by a single byte), added, moved, or taken out
before another is told; rows cut off at the end are told up to the longest witnessed head."
"""

import json
import math
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from confrere_common.chain import START, TORN, Chain, verify
from confrere_common.errors import CheckpointError

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = KEY.public_key()
FEW = settings(max_examples=60, deadline=None)


def clock() -> datetime:
    return datetime(2026, 3, 1, 12, tzinfo=UTC)


def write_log(path: Path, rows: int = 5) -> dict[int, str]:
    """Write a log and return its heads, as a witness would keep them."""
    chain = Chain(path, KEY, clock)
    return {number: chain.append("update left", round=number) for number in range(1, rows + 1)}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "audit.jsonl"
    write_log(path)
    return path


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spoilt") / "audit.jsonl"


def test_a_log_as_it_was_written_has_no_fault(tmp_path: Path) -> None:
    heads = write_log(tmp_path / "log")

    checked = verify(tmp_path / "log", PUBLIC, heads)

    assert (checked.length, checked.head, checked.faults) == (5, heads[5], ())
    assert Chain(tmp_path / "log", KEY).head() == (5, heads[5])


def test_a_row_says_when_what_and_after_which(tmp_path: Path) -> None:
    path = tmp_path / "log"
    chain = Chain(path, KEY, clock)

    first = chain.append("run approved", run="r1", bytes=7, share=0.5, by="Müller", late=None)
    chain.append("update left")

    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["sequence"] for row in rows] == [1, 2]
    assert [row["previous"] for row in rows] == [START, first]
    assert rows[0]["at"] == "2026-03-01T12:00:00.000+00:00"
    assert rows[0]["event"] == "run approved"
    expected = {"run": "r1", "bytes": 7, "share": 0.5, "by": "Müller", "late": None}
    assert rows[0]["facts"] == expected
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_empty_log_has_the_head_zero(tmp_path: Path) -> None:
    assert Chain(tmp_path / "none", KEY).head() == (0, START)
    assert "cannot be read" in verify(tmp_path / "none", PUBLIC).faults[0]


@FEW
@given(at=st.integers(0), byte=st.integers(1, 255))
def test_any_changed_byte_is_told(log: Path, spoilt: Path, at: int, byte: int) -> None:
    """Quote: "a row that was edited (by a single byte)"."""
    content = bytearray(log.read_bytes())
    content[at % len(content)] ^= byte
    spoilt.write_bytes(content)

    assert verify(spoilt, PUBLIC).faults


@FEW
@given(at=st.integers(0), added=st.binary(min_size=1, max_size=8))
def test_any_inserted_byte_is_told(log: Path, spoilt: Path, at: int, added: bytes) -> None:
    content = log.read_bytes()
    at %= len(content) + 1
    spoilt.write_bytes(content[:at] + added + content[at:])

    assert verify(spoilt, PUBLIC).faults


@FEW
@given(order=st.permutations(range(5)))
def test_any_other_order_is_told(log: Path, spoilt: Path, order: list[int]) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    spoilt.write_bytes(b"".join(lines[number] for number in order))

    assert bool(verify(spoilt, PUBLIC).faults) == (order != sorted(order))


@FEW
@given(kept=st.sets(st.integers(0, 4)))
def test_rows_taken_out_before_another_are_told(log: Path, spoilt: Path, kept: set[int]) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    spoilt.write_bytes(b"".join(lines[number] for number in sorted(kept)))
    only_the_end_is_missing = kept == set(range(len(kept)))

    assert bool(verify(spoilt, PUBLIC).faults) != only_the_end_is_missing


@FEW
@given(left=st.integers(0, 4), witnessed=st.integers(0, 5))
def test_a_cut_end_is_told_up_to_the_longest_witnessed_head(
    log: Path, spoilt: Path, left: int, witnessed: int
) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    heads = [START, *(json.loads(line)["hash"] for line in lines)]
    spoilt.write_bytes(b"".join(lines[:left]))

    checked = verify(spoilt, PUBLIC, {witnessed: heads[witnessed]})

    assert bool(checked.faults) == (witnessed > left)
    assert checked.length == left


@FEW
@given(
    row=st.integers(0, 4),
    key=st.sampled_from(["sequence", "at", "event", "facts", "previous", "hash", "signature"]),
    value=st.none() | st.integers() | st.text(max_size=8) | st.just({}) | st.just([1]),
)
def test_any_other_value_in_a_row_is_told(
    log: Path, spoilt: Path, row: int, key: str, value: object
) -> None:
    rows = [json.loads(line) for line in log.read_bytes().splitlines()]
    assume(value != rows[row][key])
    rows[row][key] = value
    lines = [json.dumps(row, sort_keys=True, separators=(",", ":")) for row in rows]
    spoilt.write_text("\n".join(lines) + "\n")

    assert verify(spoilt, PUBLIC).faults


def test_a_whole_log_written_by_another_key_is_told(tmp_path: Path) -> None:
    other = Chain(tmp_path / "log", Ed25519PrivateKey.generate(), clock)
    other.append("update left", round=1)

    assert "another key" in verify(tmp_path / "log", PUBLIC).faults[0]


def test_a_log_rewritten_with_the_right_key_is_told_by_its_witness(tmp_path: Path) -> None:
    heads = write_log(tmp_path / "log")
    (tmp_path / "log").unlink()
    for number in range(9):
        Chain(tmp_path / "log", KEY, clock).append("nothing left", round=number)

    assert not verify(tmp_path / "log", PUBLIC).faults
    assert "rewritten" in verify(tmp_path / "log", PUBLIC, {3: heads[3]}).faults[0]


@settings(max_examples=15, deadline=None)
@given(cut=st.integers(1, 10_000))
def test_a_line_torn_by_a_crash_is_set_aside_and_noted(log: Path, spoilt: Path, cut: int) -> None:
    """``Chain``: "Guarantee: what ``append`` returned is on the disk; a line that a crash tore is
    kept in a file beside the log and noted in a row of its own, never dropped in silence."
    """
    content = log.read_bytes()
    last = content.splitlines()[-1]
    torn = last[: cut % len(last) + 1]
    spoilt.write_bytes(content.removesuffix(last + b"\n") + torn)
    beside = spoilt.with_name("audit.jsonl.torn")
    beside.unlink(missing_ok=True)

    Chain(spoilt, KEY, clock).append("back again")

    rows = [json.loads(line) for line in spoilt.read_bytes().splitlines()]
    assert [row["event"] for row in rows[-2:]] == [TORN, "back again"]
    assert rows[-2]["facts"]["bytes"] == len(torn)
    assert beside.read_bytes() == torn + b"\n"
    assert not verify(spoilt, PUBLIC).faults


def test_a_torn_line_longer_than_its_note_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write_log(path, 2)
    with path.open("ab") as file:
        file.write(b"\0" * 9000)

    Chain(path, KEY, clock).append("back again")

    assert verify(path, PUBLIC).length == 4
    assert not verify(path, PUBLIC).faults


def test_a_torn_end_is_told_until_it_is_set_aside(tmp_path: Path) -> None:
    heads = write_log(tmp_path / "log")
    with (tmp_path / "log").open("ab") as file:
        file.write(b'{"at"')

    assert "middle of a row" in verify(tmp_path / "log", PUBLIC).faults[0]
    assert Chain(tmp_path / "log", KEY).head() == (5, heads[5])


def test_nothing_is_added_to_an_altered_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write_log(path)
    path.write_bytes(path.read_bytes().replace(b'"round":5', b'"round":6'))

    with pytest.raises(CheckpointError, match="not as it was written"):
        Chain(path, KEY).append("next")


def test_an_empty_line_does_not_begin_the_log_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write_log(path)
    path.write_bytes(path.read_bytes() + b"\n")

    with pytest.raises(CheckpointError):
        Chain(path, KEY).append("next")


def test_rows_longer_than_what_is_read_at_once_are_read_back(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "log", KEY, clock)

    for number in range(3):
        chain.append("much", text="x" * 10_000, number=number)

    assert chain.head()[0] == 3
    assert not verify(tmp_path / "log", PUBLIC).faults


def test_what_json_cannot_hold_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Chain(tmp_path / "log", KEY).append("loss", value=math.nan)

    assert Chain(tmp_path / "log", KEY).head() == (0, START)


APPEND_OFTEN = """
import sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from confrere_common.chain import Chain
for number in range(20):
    key = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
    Chain(Path(sys.argv[1]), key).append("at once", number=number)
"""


def test_processes_may_share_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log"

    writers = [subprocess.Popen([sys.executable, "-c", APPEND_OFTEN, path]) for _ in range(3)]

    assert [writer.wait() for writer in writers] == [0, 0, 0]
    checked = verify(path, PUBLIC)
    assert (checked.length, checked.faults) == (60, ())

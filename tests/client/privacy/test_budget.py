"""The ledger: paid before trained, never over budget, and nobody changes it unseen."""

import json
import math
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import ledger_killing
import pytest
from ledger_killing import BUDGET, RELEASED, hundredths, ledger_in, spend

from confrere_client.privacy.budget import Ledger
from confrere_common.errors import PrivacyError
from confrere_common.privacy.accounting import Budget, epsilon
from confrere_common.privacy.ledger import Release, Spend

KILLS = 50


def test_killed_writers_never_release_unpaid_and_never_overspend(tmp_path: Path) -> None:
    """``Ledger.charge``: "Guarantee: durable before it returns; PrivacyError, and nothing written,
    where the data set would go over *budget*, counting every charge there has ever been."
    """
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, ledger_killing.__file__, str(tmp_path), str(KILLS)]

    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    told = re.fullmatch(r"killed (\d+), ended \[7, 7\], at (.+)\nof (.+)\n", ran.stdout)
    assert told, ran.stdout + ran.stderr
    assert int(told[1]) >= KILLS
    assert told[2] == told[3]  # the last two writers spent what was left, and no more
    rows = ledger_in(tmp_path).rows()
    charged = {row.digest for row in rows}
    released = (tmp_path / RELEASED).read_text().split()
    assert len(set(released)) == len(released) > 20
    assert set(released) <= charged
    spends = [row.entry for row in rows if isinstance(row.entry, Spend)]
    assert len({(one.round, one.attempt) for one in spends}) == len(rows)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A ledger of three charges and a release, with a witness in a second place."""
    made = ledger_in(tmp_path)
    for round in (1, 2, 3):
        made.charge(spend(round), BUDGET)
    made.release(replace(spend(3), attempt=1), "b" * 64)
    return made


def edit(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        for statement in statements:
            database.execute(statement)
    database.close()


CHANGE = "UPDATE ledger SET body = replace(body, '\"steps\":1', '\"steps\":0') WHERE number = 2"
CUT = "DELETE FROM ledger WHERE number = 4"
FORGERIES: dict[str, tuple[str, ...]] = {
    "an edited charge": (CHANGE,),
    "an edited time": ("UPDATE ledger SET at = '2020' WHERE number = 1",),
    "an edited hash": ("UPDATE ledger SET digest = previous WHERE number = 2",),
    "a kind that is none": ("UPDATE ledger SET kind = 'gift' WHERE number = 2",),
    "a deleted row": ("DELETE FROM ledger WHERE number = 2",),
    "two rows in each other's place": (
        "UPDATE ledger SET number = -1 WHERE number = 1",
        "UPDATE ledger SET number = 1 WHERE number = 2",
        "UPDATE ledger SET number = 2 WHERE number = -1",
    ),
    "the last row cut off": (CUT,),
    "the last row cut off, the count as well": (CUT, "UPDATE sqlite_sequence SET seq = 3"),
    "all rows gone": ("DELETE FROM ledger", "DELETE FROM sqlite_sequence"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_ledger_is_found_out_and_charges_nothing(ledger: Ledger, forgery: str) -> None:
    """``Ledger``: "Guarantee: what ``charge`` returned is on the disk, within the budget, and part
    of the chain; an edited, cut, reordered or replaced ledger charges nothing."

    ``ledger.must_hold``: "Guarantee: no row that was edited, added, moved or taken out passes;
    neither does a chain that was cut or rolled back to before a witnessed head."
    """
    edit(ledger.path, *FORGERIES[forgery])

    with pytest.raises(PrivacyError, match="cannot be trusted") as told:
        ledger.rows()
    with pytest.raises(PrivacyError):
        ledger.charge(spend(4), BUDGET)
    assert told.value.code == "ledger-broken"


def remove(path: Path) -> None:
    for part in path.parent.glob(f"{path.name}*"):
        part.unlink()


def test_an_old_copy_put_back_is_found_out(ledger: Ledger, tmp_path: Path) -> None:
    shutil.copy(ledger.path, tmp_path / "old")
    wal = ledger.path.with_name(f"{ledger.path.name}-wal")
    assert not wal.exists() or wal.stat().st_size == 0  # the copy is whole
    receipt = ledger.head()
    ledger.charge(spend(4), BUDGET)
    newer = ledger.head()

    remove(ledger.path)
    shutil.copy(tmp_path / "old", ledger.path)

    with pytest.raises(PrivacyError, match="rolled back"):
        ledger.rows()
    alone = replace(ledger, witness=None)
    assert alone.rows([receipt])  # nobody else knows of the fourth charge ...
    with pytest.raises(PrivacyError, match="4 rows, but 5 were witnessed"):
        alone.rows([receipt, newer])  # ... but for whoever holds its receipt


def test_a_ledger_that_is_gone_is_not_begun_anew(ledger: Ledger) -> None:
    remove(ledger.path)

    for attempt in (ledger.rows, lambda: ledger.charge(spend(4), BUDGET)):
        with pytest.raises(PrivacyError, match="4 rows were witnessed"):
            attempt()
    assert not ledger.path.exists()


def test_a_witness_that_is_gone_or_torn_is_told(ledger: Ledger) -> None:
    assert ledger.witness is not None

    ledger.witness.write_text('{"number": ')
    with pytest.raises(PrivacyError, match="cannot be read"):
        ledger.charge(spend(4), BUDGET)
    ledger.witness.unlink()
    with pytest.raises(PrivacyError, match="is gone"):
        ledger.charge(spend(4), BUDGET)


def test_a_file_that_is_no_ledger_is_told(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"no database" * 100)
    path.chmod(0o600)

    with pytest.raises(PrivacyError, match="SQLite says"):
        Ledger(path=path).charge(spend(1), BUDGET)


def test_a_ledger_that_others_may_write_is_refused(ledger: Ledger) -> None:
    assert ledger.path.stat().st_mode & 0o777 == 0o600

    ledger.path.chmod(0o640)

    with pytest.raises(PrivacyError, match="mode 0600"):
        ledger.charge(spend(4), BUDGET)


def test_another_run_study_and_restart_find_the_same_budget(tmp_path: Path) -> None:
    for number in range(3):
        ledger_in(tmp_path).charge(
            replace(spend(1), run=f"{number}" * 64, study=f"study-{number}", steps=100), BUDGET
        )

    with pytest.raises(PrivacyError, match=r"epsilon 3\.01, over its budget of 3\.00") as told:
        ledger_in(tmp_path).charge(replace(spend(1), run="f" * 64), BUDGET)

    assert told.value.code == "budget-spent"
    assert len(ledger_in(tmp_path).rows()) == 3
    ledger_in(tmp_path).charge(replace(spend(1), data_set="another ward"), BUDGET)


def test_a_round_trained_anew_is_paid_anew(ledger: Ledger) -> None:
    again = ledger.charge(spend(3), BUDGET)

    assert isinstance(again.entry, Spend)
    assert again.entry.attempt == 2
    with pytest.raises(PrivacyError, match="never charged"):
        ledger.release(replace(spend(3), attempt=3), "b" * 64)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0.0])
@pytest.mark.parametrize("field", ["rate", "noise", "steps"])
def test_a_charge_of_nonsense_is_refused(tmp_path: Path, field: str, value: float) -> None:
    made = ledger_in(tmp_path)

    with pytest.raises(PrivacyError, match=field):
        made.charge(replace(spend(1), **{field: value}), BUDGET)  # type: ignore[arg-type]

    assert made.rows() == []


def test_a_cost_that_is_no_number_is_over_any_budget(tmp_path: Path) -> None:
    made = replace(ledger_in(tmp_path), cost=lambda *_: math.nan)

    with pytest.raises(PrivacyError):
        made.charge(spend(1), BUDGET)


def test_it_counts_as_accounting_does(tmp_path: Path) -> None:
    made = Ledger(path=tmp_path / "ledger.sqlite")
    many = [replace(spend(round), steps=20) for round in (1, 2)]

    for one in many:
        made.charge(one, Budget(epsilon=2.0, delta=1e-5))

    due = epsilon([one.event for one in many], 1e-5)
    assert made.spent("ward", 1e-5) == due > 0
    assert made.spent("another", 1e-5) == 0


def test_it_is_exported_as_a_table_for_a_privacy_officer(ledger: Ledger) -> None:
    lines = ledger.as_csv().splitlines()

    assert lines[0].startswith("number,at,kind,data_set,study,run,round,attempt,rate,noise,steps")
    assert len(lines) == 5
    assert lines[1].split(",")[2:5] == ["spend", "ward", "study"]
    assert lines[4].split(",")[2] == "release"


def test_what_it_keeps_survives_a_restart_in_every_digit(ledger: Ledger) -> None:
    assert ledger.witness is not None
    odd = replace(spend(9), rate=0.1 + 0.2, noise=1 / 3 + 1)
    ledger.charge(odd, BUDGET)

    rows = Ledger(path=ledger.path, witness=ledger.witness, cost=hundredths).rows()

    assert rows[-1].entry == replace(odd, attempt=1)
    assert isinstance(rows[3].entry, Release)
    assert json.loads(ledger.witness.read_text())["number"] == 5


def test_no_ledger_means_that_nothing_was_spent(tmp_path: Path) -> None:
    made = ledger_in(tmp_path)

    assert made.rows() == []
    assert made.head()[0] == 0
    assert not (tmp_path / "ledger.sqlite").exists()


def test_a_crash_before_a_row_was_witnessed_is_no_forgery(tmp_path: Path) -> None:
    made = ledger_in(tmp_path)
    assert made.witness is not None
    made.charge(spend(1), BUDGET)

    made.witness.write_text(json.dumps({"number": 0, "digest": "0" * 64}))  # as it stood before
    made.charge(spend(2), BUDGET)

    assert json.loads(made.witness.read_text())["number"] == 2


def test_whoever_reads_while_another_writes_sees_a_whole_ledger(tmp_path: Path) -> None:
    book = ledger_killing.ledger_in(tmp_path)
    done = threading.Event()

    def write() -> None:
        for number in range(60):
            book.charge(ledger_killing.spend(number), ledger_killing.BUDGET)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    while not done.is_set():
        seen.append(len(book.rows()))  # a PrivacyError would say that the ledger was forged
    writer.join()

    assert seen == sorted(seen)
    assert len(book.rows()) == 60


def test_two_writers_who_make_the_ledger_at_once_both_find_it_sound(tmp_path: Path) -> None:
    faults: list[BaseException] = []

    def write(folder: Path, start: threading.Barrier) -> None:
        start.wait()
        try:
            ledger_killing.ledger_in(folder).charge(ledger_killing.spend(1), ledger_killing.BUDGET)
        except BaseException as fault:
            faults.append(fault)

    for number in range(25):
        start = threading.Barrier(3)
        folder = tmp_path / str(number)
        writers = [threading.Thread(target=write, args=(folder, start)) for _ in range(3)]
        for one in writers:
            one.start()
        for one in writers:
            one.join()

    assert faults == []

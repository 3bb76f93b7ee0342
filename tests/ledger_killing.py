"""Writers that charge a ledger and release for as long as they live, killed at random moments.

Run as a program, since it forks: ``python ledger_killing.py FOLDER KILLS``.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from confrere_client.privacy.budget import Ledger
from confrere_common.errors import PrivacyError
from confrere_common.privacy.accounting import Budget, Event
from confrere_common.privacy.ledger import Spend

BUDGET = Budget(epsilon=3.0, delta=1e-5)
RATE, NOISE, STEPS = 0.05, 2.0, 1
RELEASED = "released.txt"
SPENT = 7
"""How a writer ends when there is no budget left."""


def spend(round: int) -> Spend:
    return Spend(
        data_set="ward",
        study="study",
        run="a" * 64,
        round=round,
        attempt=0,
        rate=RATE,
        noise=NOISE,
        steps=STEPS,
    )


def ledger_in(folder: Path) -> Ledger:
    """Return the real ledger; its steps cost a hundredth each, so that a charge takes no time."""
    witness = folder / "second" / "head.json"
    return Ledger(path=folder / "ledger.sqlite", witness=witness, cost=hundredths)


def hundredths(events: Iterable[Event], _: float) -> float:
    return sum(event.steps for event in events) / 100


def write(folder: Path, seed: int, budget: Budget) -> None:
    """Charge, then release: a line in a file that stands for the network."""
    chance = random.Random(seed)  # noqa: S311
    out = os.open(folder / RELEASED, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    while True:
        try:
            paid = ledger_in(folder).charge(spend(chance.randrange(5)), budget)
        except PrivacyError as fault:
            os.write(2, f"{fault}\n".encode())
            os._exit(SPENT if fault.code == "budget-spent" else 8)
        os.write(out, f"{paid.digest}\n".encode())


def start(folder: Path, seed: int, budget: Budget) -> int:
    child = os.fork()
    if child == 0:
        try:
            write(folder, seed, budget)
        finally:
            os._exit(9)
    return child


def killed(writer: int) -> bool:
    """Kill a writer and say whether that, and not its spent budget, was its end."""
    os.kill(writer, signal.SIGKILL)
    _, status = os.waitpid(writer, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status) != SPENT:
        sys.exit(f"a writer ended by itself with {os.WEXITSTATUS(status)}")
    return os.WIFSIGNALED(status)


def wait(released: Path, chance: random.Random) -> None:
    """Wait for some releases, however slow the machine is, and then for a moment more."""
    lines, until = chance.randrange(4), time.monotonic() + 0.5
    due = (released.stat().st_size if released.exists() else 0) + 65 * lines
    while time.monotonic() < until and (not released.exists() or released.stat().st_size < due):
        time.sleep(0.0005)
    time.sleep(chance.uniform(0, 0.005))


def main() -> None:
    folder, wanted = Path(sys.argv[1]), int(sys.argv[2])
    chance, kills, trial = random.Random(0), 0, 0  # noqa: S311
    while kills < wanted:
        trial += 1
        # A few charges more each time: so that writers are killed near the end of a budget, too.
        budget = Budget(epsilon=(len(ledger_in(folder).rows()) + 6) / 100 + 1e-9, delta=1e-5)
        writers = [start(folder, 2 * trial + one, budget) for one in range(2)]
        wait(folder / RELEASED, chance)
        kills += sum([killed(writer) for writer in writers])
        if ledger_in(folder).spent("ward", 1e-5) > budget.epsilon:
            sys.exit("over budget")
    last = [start(folder, one, budget) for one in range(2)]
    ends = [os.WEXITSTATUS(os.waitpid(writer, 0)[1]) for writer in last]
    at = ledger_in(folder).spent("ward", 1e-5)
    sys.stdout.write(f"killed {kills}, ended {ends}, at {at:.2f}\nof {budget.epsilon:.2f}\n")


if __name__ == "__main__":
    main()

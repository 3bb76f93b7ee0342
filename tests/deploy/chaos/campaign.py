"""Kills, pauses and cuts at seeded moments, while runs go on; then what must hold, is looked at.

Strikes fall at random, or when a file shows that a certain thing is being done just now (a
checkpoint or an update being written, an update leaving): such moments last milliseconds.
"""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from federation import Federation, wait_until

from confrere_server.runs.queue import OPEN, Folder

PROGRESS_S = 150.0
"""Within so long after a strike, with none in between, a round must have been closed."""


@dataclass(frozen=True)
class Strike:
    """What was done, to whom, after which event of the server's log, and what it cost."""

    kind: str
    who: str
    after: str
    aimed: bool
    recovered_s: float | None = None


def _role(who: str) -> str:
    return who.partition("/")[2] or ("server" if who == "server" else "daemon")


@dataclass
class Campaign:
    """A seeded row of strikes on a federation whose queue never runs dry."""

    federation: Federation
    seed: int
    rounds: int = 6
    strikes: list[Strike] = field(default_factory=list)
    calm: Folder | None = None
    _due: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)  # noqa: S311  (a seeded storm is no secret)
        self.runs: list[Folder] = []

    def begin(self, within_s: float = 180) -> None:
        """Carry out the run that all others are measured by."""
        self.calm = self.federation.submit("calm", self.rounds)
        self.federation.wait(self.calm, within_s)

    def strike(self, kills: int, until: float = float("inf")) -> None:
        """Strike until there were *kills* kills, or the clock (monotonic) says *until*."""
        while sum(one.kind == "kill" for one in self.strikes) < kills and time.monotonic() < until:
            self._feed()
            self._one()

    def end(self, within_s: float = 240) -> None:
        """Let whatever is open come to its end."""
        self._mend()
        for run in self.runs:
            self.federation.wait(run, within_s)

    # ------------------------------------------------------------------ one strike

    def _feed(self) -> None:
        if not any(run.standing.state in OPEN for run in self.runs):
            self.runs.append(self.federation.submit(f"storm-{len(self.runs)}", self.rounds))

    def _one(self) -> None:
        aimed = self.random.random() < 0.4
        kind = self.random.choices(["kill", "kill_several", "pause", "cut"], [6, 2, 1, 1])[0]
        who, ready = self._aim() if aimed else (self._anyone(kind), None)
        if ready is None:
            time.sleep(self.random.uniform(0, 2.5))
        elif not self._ready(ready):
            return
        before, began = self._progress(), time.monotonic()
        after = self.federation.log()[-1]["event"]
        hit = getattr(self, f"_{kind}")(who)
        if not hit:
            return
        again = self.random.random() < 0.33
        recovered = None if again else self._recovered(before, began)
        # A power cut hits several at once: each is a kill, the wait is counted once.
        times = [recovered, *[None] * (len(hit) - 1)]
        self.strikes += [
            Strike(kind.partition("_")[0], _role(one), after, aimed, took)
            for one, took in zip(hit, times, strict=True)
        ]

    def _anyone(self, kind: str) -> str:
        names = self.federation.names
        if kind == "cut":
            return self.random.choice(names)
        site = self.random.choice(names)
        return self.random.choice(["server", site, f"{site}/worker"])

    def _aim(self) -> tuple[str, Callable[[], bool]]:
        """Return whom to strike, and what to wait for."""
        site = self.random.choice(self.federation.names)
        hub, folder = self.federation.folder("server"), self.federation.folder(site)
        runs, outbox = hub / "runs", folder / "outbox"
        boxes, size = {*outbox.glob("*.box")}, (folder / "audit.jsonl").stat().st_size
        hub_size = (hub / "audit.jsonl").stat().st_size

        def grown(path: Any, from_: int, word: bytes) -> bool:
            with path.open("rb") as file:
                file.seek(from_)
                return word in file.read()

        return self.random.choice(
            [
                ("server", lambda: any(runs.glob("*/checkpoints/.round-*"))),
                ("server", lambda: grown(hub / "audit.jsonl", hub_size, b'"closed"')),
                ("server", lambda: grown(hub / "audit.jsonl", hub_size, b'"answered"')),
                ("server", lambda: any((hub / "objects").iterdir())),
                (f"{site}/worker", lambda: any(outbox.glob("*.part"))),
                (site, lambda: {*outbox.glob("*.box")} != boxes),
                (site, lambda: grown(folder / "audit.jsonl", size, b'"update leaves"')),
                (site, lambda: grown(folder / "audit.jsonl", size, b'"round begun"')),
            ]
        )

    def _ready(self, ready: Callable[[], bool], within_s: float = 5.0) -> bool:
        ends = time.monotonic() + within_s
        while time.monotonic() < ends:
            try:
                if ready():
                    time.sleep(self.random.choice([0, 0, 0.002, 0.02, 0.1]))
                    return True
            except OSError:
                pass
            time.sleep(0.001)
        return False

    def _kill(self, who: str) -> list[str]:
        if not self.federation.kill(who):
            return []
        if "/" not in who:
            time.sleep(self.random.choice([0, 0, 0.5, 2]))
            self.federation.start(who)
        return [who]

    def _kill_several(self, who: str) -> list[str]:  # noqa: ARG002  (as all strikes)
        every = ["server", *self.federation.names]
        hit = self.random.sample(every, self.random.randint(2, len(every)))
        killed = [one for one in hit if self.federation.kill(one)]
        for one in killed:
            self.federation.start(one)
        return killed

    def _pause(self, who: str) -> list[str]:
        if not self.federation.signal(who, signal.SIGSTOP):
            return []
        time.sleep(self.random.uniform(0.2, 4))
        self.federation.signal(who, signal.SIGCONT)
        return [who]

    def _cut(self, who: str) -> list[str]:
        sites = self.federation.names if who == "server" else (who.partition("/")[0],)
        wires = [self.federation.wires[site] for site in sites]
        hold = self.random.random() < 0.5
        for wire in wires:
            wire.hold() if hold else wire.cut()
        time.sleep(self.random.uniform(0.2, 5))
        drop = self.random.random() < 0.7
        for wire in wires:
            wire.mend(drop=drop)
        return ["server" if who == "server" else who.partition("/")[0]]

    # ------------------------------------------------------------------ after it

    def _progress(self) -> tuple[int, int]:
        events = [row["event"] for row in self.federation.log()]
        return events.count("closed"), events.count("run done")

    def _recovered(self, before: tuple[int, int], began: float) -> float:
        """Return the seconds until the next round was closed, feeding the queue meanwhile."""

        def on() -> bool:
            self._feed()
            return self._progress() > before

        wait_until(on, PROGRESS_S, "a round is closed after a strike")
        return time.monotonic() - began

    def _mend(self) -> None:
        for wire in self.federation.wires.values():
            wire.mend(drop=True)
        for who in ("server", *self.federation.names):
            if not self.federation.up(who):
                self.federation.start(who)

    # ------------------------------------------------------------------ what must hold

    def faults(self) -> list[str]:
        """Return one sentence for everything that is not as it must be."""
        return [*self._run_faults(), *self._log_faults()]

    def _run_faults(self) -> Iterator[str]:
        federation, calm = self.federation, self.calm
        assert calm is not None
        due, encoder = federation.digests(calm), (calm.path / "encoder.safetensors").read_bytes()
        for run in self.runs:
            name, closed = run.path.name, federation.closed(run)
            if [facts["round"] for facts in closed] != list(range(1, self.rounds + 1)):
                yield f"{name}: rounds were closed as {[facts['round'] for facts in closed]}"
            if [facts["weights"] for facts in closed] != due:
                yield f"{name}: weights differ from the undisturbed run's"
            if (run.path / "encoder.safetensors").read_bytes() != encoder:
                yield f"{name}: the encoder differs from the undisturbed run's"
            for facts in closed:
                if sorted(facts["sites"].split(",")) != sorted(federation.names):
                    yield f"{name}: round {facts['round']} joined {facts['sites']}"

    def _log_faults(self) -> Iterator[str]:
        for who in ("server", *self.federation.names):
            for fault in self.federation.checked(who).faults:
                yield f"the log of {who} {fault}"
        for name in self.federation.names:
            updates = self._updates(name)
            odd = [key for key, digests in updates.items() if len(digests) > 1]
            if odd:
                yield f"{name} sent different updates for the same round: {odd}"

    def _updates(self, site: str) -> dict[tuple[str, int], set[str]]:
        """Return (run, round) -> the digests of the updates that left."""
        found: dict[tuple[str, int], set[str]] = {}
        for facts in self.federation.events(site, "update leaves"):
            found.setdefault((facts["run"], facts["round"]), set()).add(facts["update"])
        return found

    def table(self) -> list[dict[str, Any]]:
        """Return for each kind of strike and whom it hit: how often, after what, how long."""
        kinds = sorted({(one.kind, one.who) for one in self.strikes})
        return [self._row(kind, who) for kind, who in kinds]

    def _row(self, kind: str, who: str) -> dict[str, Any]:
        ours = [one for one in self.strikes if (one.kind, one.who) == (kind, who)]
        took = [one.recovered_s for one in ours if one.recovered_s is not None]
        return {
            "what": kind,
            "who": who,
            "times": len(ours),
            "aimed": sum(one.aimed for one in ours),
            "after": dict(Counter(one.after for one in ours)),
            "next_round_s": {"median": round(median(took), 1), "most": round(max(took), 1)}
            if took
            else None,
        }

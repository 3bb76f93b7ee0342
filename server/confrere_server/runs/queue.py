"""Runs on the coordinator's disk: submitted, queued, carried out one after the other, kept.

``runs/<id>/`` holds ``order.json`` (what was submitted; never changed), ``state.json`` (where it
stands), ``wish`` (what the operator asks for), ``checkpoints/``, and what the run leaves behind.
Whoever may write there is the operator: no port takes orders.
"""

import json
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from confrere_common.config import Run
from confrere_common.errors import ConfigError, unknown
from confrere_common.loading import COMMON_FAMILIES, digest, dump, parse_run
from confrere_common.storage import atomic_write

State: TypeAlias = Literal["queued", "gathering", "training", "done", "failed", "stopped"]

OPEN: tuple[State, ...] = ("queued", "gathering", "training")
"""States in which a run waits for its turn or goes on."""

EMPTY: Mapping[str, str] = MappingProxyType({})

Wish: TypeAlias = Literal["", "stop", "resume"]


@dataclass(frozen=True, kw_only=True)
class Order:
    """A run as it was submitted."""

    id: str
    run: str
    """The effective run as canonical JSON."""

    submitted: str
    warm_start: str = ""
    """Digest of the release that the encoder starts from; empty for fresh weights."""

    roster: Mapping[str, str] = field(default_factory=dict)
    """Site -> public signing key, fixed for a run under secure aggregation; else empty."""

    @property
    def digest(self) -> str:
        """Return what ties checkpoints, approvals and releases to this run."""
        return digest(f"{self.run}\n{self.warm_start}")

    def parsed(self) -> Run:
        """Return the run itself."""
        return parse_run(json.loads(self.run), COMMON_FAMILIES)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a run stands; written at every change, read by whoever wants to know."""

    state: State = "queued"
    why: str = ""
    round: int = 0
    rounds: int = 0
    since: str = ""
    sites: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Site -> {standing, code, images, round, answered, loss, ...}."""

    paces_s: tuple[float, ...] = ()
    """How long the last rounds took from asking to the last valid answer."""

    bytes_up: int = 0
    bytes_down: int = 0
    loss: float | None = None
    eta_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Folder:
    """One run's folder."""

    path: Path

    @property
    def order(self) -> Order:
        """Return what was submitted."""
        try:
            return Order(**json.loads((self.path / "order.json").read_bytes()))
        except (OSError, ValueError, TypeError) as fault:
            raise ConfigError(
                [f"its order cannot be read ({type(fault).__name__}): submit the run again."],
                f"run '{self.path.name}'",
            ) from None

    @property
    def standing(self) -> Standing:
        """Return where it stands."""
        try:
            plain = json.loads((self.path / "state.json").read_bytes())
            return Standing(**{**plain, "paces_s": tuple(plain["paces_s"])})
        except FileNotFoundError:
            return Standing()
        except (ValueError, TypeError, KeyError):
            return Standing(why="its state.json was damaged; what is in checkpoints/ counts")

    def stand(self, standing: Standing) -> None:
        """Write where it stands."""
        atomic_write(self.path / "state.json", json.dumps(vars(standing), indent=1).encode())

    @property
    def wish(self) -> Wish:
        """Return what the operator asks for."""
        try:
            said = (self.path / "wish").read_text().strip()
        except OSError:
            return ""
        return "stop" if said == "stop" else "resume" if said == "resume" else ""

    def clear(self, site: str) -> None:
        """Ask the server to forget a site's offences; it looks when it gathers for a round."""
        atomic_write(self.path / "cleared" / site, b"")

    def taken_clearances(self) -> tuple[str, ...]:
        """Return the sites to be cleared; asked for once, done once."""
        found = sorted((self.path / "cleared").glob("[!.]*"))
        for path in found:
            path.unlink()
        return tuple(path.name for path in found)

    def ask_for(self, wish: Wish) -> None:
        """Ask the server to stop or to resume the run; it looks within a second."""
        if wish:
            atomic_write(self.path / "wish", wish.encode())
        else:
            (self.path / "wish").unlink(missing_ok=True)


def submit(
    runs: Path,
    run: Run,
    *,
    warm: bytes = b"",
    roster: Mapping[str, str] = EMPTY,
    now: datetime | None = None,
) -> Folder:
    """Queue *run*, its encoder starting from the release *warm* (safetensors) if there is one.

    *roster* names who may take part in masked rounds, with the keys that sign there.
    """
    moment = (now or datetime.now(UTC)).strftime("%Y%m%d-%H%M%S")
    id = f"{run.name[:40]}-{moment}-{secrets.token_hex(2)}"  # fits a folder and a proposal
    folder = Folder(path=runs / id)
    order = Order(
        id=id,
        run=dump(run),
        submitted=moment,
        warm_start=digest(warm.hex()) if warm else "",
        roster=dict(roster),
    )
    if warm:
        atomic_write(folder.path / "warm.safetensors", warm)
    folder.stand(Standing(rounds=run.federation.rounds, since=moment))
    # Last, since a folder with an order is a run.
    atomic_write(folder.path / "order.json", json.dumps(vars(order), indent=1).encode())
    return folder


def all_runs(runs: Path) -> list[Folder]:
    """List the runs, oldest first."""
    found = [Folder(path=path.parent) for path in runs.glob("*/order.json")]
    return sorted(found, key=_submitted)


def find_run(runs: Path, id: str) -> Folder:
    """Return the run of that id, or of the only id that begins so; ConfigError if none is."""
    known = {folder.path.name: folder for folder in all_runs(runs)}
    fitting = [name for name in known if name == id] or [n for n in known if n.startswith(id)]
    if len(fitting) != 1:
        raise ConfigError([unknown("run", id, known)], str(runs))
    return known[fitting[0]]


def next_run(runs: Path, besides: Collection[str] = ()) -> Folder | None:
    """Return the oldest run that is open or asked to be resumed; None when there is none.

    *besides*: ids of runs that are passed over.
    """
    for folder in all_runs(runs):
        if folder.path.name in besides:
            continue
        standing = folder.standing
        if standing.state in ("failed", "stopped") and folder.wish == "resume":
            standing = replace(standing, state="queued", why="")
            folder.stand(standing)
        if standing.state in OPEN:
            # Only now: whoever is killed in between finds the wish, or that it was granted.
            if folder.wish == "resume":
                folder.ask_for("")
            return folder
    return None


def unwanted(runs: Path) -> list[Folder]:
    """List the open runs that the operator asked to stop."""
    asked = [Folder(path=path.parent) for path in runs.glob("*/wish")]
    return [one for one in asked if one.wish == "stop" and one.standing.state in OPEN]


def _submitted(folder: Folder) -> tuple[str, int, str]:
    """Return what sorts runs by their age; an order that cannot be read comes first, and fails."""
    written = (folder.path / "order.json").stat().st_mtime_ns
    try:
        return folder.order.submitted, written, folder.path.name
    except ConfigError:
        return "", written, folder.path.name

"""The coordinator's server: one process, one public port, one run after the other."""

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from ssl import SSLContext
from types import FrameType

import uvicorn

from confrere_common.chain import Chain
from confrere_common.code import bundle
from confrere_common.errors import ConfrereError
from confrere_common.log import reason
from confrere_common.pki.tls import server_context
from confrere_common.storage import alone
from confrere_server.membership.roster import Roster, enrol, read_roster, renew, saw
from confrere_server.membership.workspace import Workspace, renew_server
from confrere_server.runs.choosing import why_ended
from confrere_server.runs.conduct import Conductor
from confrere_server.runs.publish import publish
from confrere_server.runs.queue import Folder, unwanted
from confrere_server.runs.recall import last_closed, site_heads
from confrere_server.runs.turns import GaveWay, Turn, Turns
from confrere_server.transport.carrier import Carrier, Halted
from confrere_server.transport.edge import Certified, Edge, Limits, Noting
from confrere_server.transport.superlink import SuperLink
from confrere_server.watch.health import Health
from confrere_server.watch.observe import Observing

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
"""How often the queue and the roster are looked at."""

RENEW_EVERY_S = 3600.0
"""How often it is looked whether the server's certificate is due."""


@dataclass(kw_only=True)
class RosterView:
    """The roster as it stands on the disk, read again only when the file has changed."""

    workspace: Workspace
    _seen: tuple[int, int] = (0, 0)
    _roster: Roster | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self) -> Roster:
        """Return the roster; CheckpointError if somebody edited it."""
        with self._lock:
            found = self.workspace.roster.stat()
            mark = (found.st_mtime_ns, found.st_ino)
            if self._roster is None or mark != self._seen:
                self._roster, self._seen = read_roster(self.workspace), mark
            return self._roster


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A run that this process has taken up and that is not over."""

    flower: int
    """Id of its Flower run."""

    conductor: Conductor
    turn: Turn


@dataclass(kw_only=True)
class Server:
    """All that runs between start and stop."""

    workspace: Workspace
    halt: threading.Event = field(default_factory=threading.Event)
    _begun: dict[str, Begun] = field(default_factory=dict)
    _looked_at: float = float("-inf")

    @cached_property
    def link(self) -> SuperLink:
        """Return Flower's side, empty at every start."""
        return SuperLink(self.workspace.objects)

    @cached_property
    def roster(self) -> RosterView:
        """Return who may come in."""
        return RosterView(workspace=self.workspace)

    @cached_property
    def chain(self) -> Chain:
        """Return the audit log."""
        return self.workspace.chain()

    def nodes(self) -> Mapping[str, int]:
        """Return the node of every active site, known to Flower from here on."""
        active = {n: s for n, s in self.roster().sites.items() if s.state == "active"}
        return {name: self.link.register(site.node_key, name) for name, site in active.items()}

    def edge(self) -> Edge:
        """Return the app of the public port."""
        config = self.workspace.config
        return Edge(
            self.link.app,
            self.roster,
            Limits(body_bytes=config.body_limit_mb * 2**20, requests_per_s=config.requests_per_s),
            desks={
                ("invite", "/v1/enrol"): partial(enrol, self.workspace),
                ("site", "/v1/renew"): partial(renew, self.workspace),
            },
            noting=Noting(refused=self._refused, saw=partial(saw, self.workspace)),
        )

    def conduct_all(self) -> None:
        """Carry out the queue until told to halt; one run's failure never stops the next."""
        while not self.halt.is_set():
            folder = None
            try:
                self.nodes()  # a site that enrolled meanwhile may speak from now on
                folder = self._turns.next()
                if folder is not None:
                    self.conduct(folder)
                    self._turns.ended()
                    continue
            except GaveWay:
                self._turns.passed(folder)  # type: ignore[arg-type]
                continue
            except Exception as fault:  # whatever it was, the next run must have its turn
                log.exception("run %s failed", folder.path.name if folder else "(none)")
                self._fail(folder, reason(fault))
            self.halt.wait(LOOK_EVERY_S)

    def conduct(self, folder: Folder) -> None:
        """Carry out one run, and write how it ended; GaveWay when it waits for its sites in vain.

        One that gave way goes on as if nothing were: its sites' answers are heard in its next turn.
        """
        begun = self._begun.get(folder.path.name) or self._begin(folder)
        self._begun[folder.path.name] = begun
        begun.turn.begin()
        try:
            last = begun.conductor.carry_out()
            publish(self.workspace, folder, last, self._heads)
            self._end(folder, "done", why_ended(folder, last.round))
        except GaveWay:
            raise
        except Halted:
            if folder.wish == "stop":
                self._stop(folder)
        except ConfrereError as fault:
            self._end(folder, "failed", reason(fault))
        except BaseException:
            self._forget(folder)
            raise
        self._forget(folder)

    def _begin(self, folder: Folder) -> Begun:
        sleep = partial(self._meanwhile, folder)
        turn = Turn(folder=folder, others=partial(self._turns.others, folder), sleep=sleep)
        flower = self.link.begin(bundle())
        carrier = Carrier(
            link=self.link,
            run=flower,
            name=folder.path.name,
            nodes=self.nodes,
            halted=lambda: self.halt.is_set() or folder.wish == "stop",
            head=self.chain.head,
            witness=self._witness,
            pause=sleep,
        )
        conductor = Conductor(
            folder=folder,
            study=self.workspace.config.study,
            carrier=carrier,
            note=self.chain.append,
            halted=carrier.halted,
            closed=last_closed(self.workspace.audit, folder.path.name),
            pause=turn.pause,
        )
        self.chain.append("run begun", run=folder.path.name, digest=folder.order.digest)
        return Begun(flower=flower, conductor=conductor, turn=turn)

    def _meanwhile(self, folder: Folder, seconds: float) -> None:
        """Sleep while *folder* has its turn; others that are to stop do not wait for theirs."""
        self.halt.wait(seconds)
        if time.monotonic() - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = time.monotonic()
        for other in unwanted(self.workspace.runs):
            if other.path != folder.path:
                try:
                    self._stop(other)
                except (ConfrereError, OSError):  # that is no fault of the run whose turn it is
                    log.exception("run %s could not be stopped", other.path.name)

    def _stop(self, folder: Folder) -> None:
        self._end(folder, "stopped", "the operator asked for it")
        folder.ask_for("")  # only now: a server that is killed in between must know of it
        self._forget(folder)

    def _forget(self, folder: Folder) -> None:
        begun = self._begun.pop(folder.path.name, None)
        if begun is not None:
            self.link.end(begun.flower)

    @cached_property
    def _turns(self) -> Turns:
        return Turns(runs=self.workspace.runs)

    @cached_property
    def _heads(self) -> dict[str, tuple[int, str]]:
        return site_heads(self.workspace.audit)

    def _witness(self, site: str, head: tuple[int, str]) -> None:
        if head[0] and self._heads.get(site) != head:
            self._heads[site] = head
            self.chain.append("site head", site=site, length=head[0], head=head[1])

    def _refused(self, who: str, why: str) -> None:
        # A stranger may knock as often as he likes: the log of the process takes it, not the audit.
        log.warning("refused %s at the public port: %s", who, why)

    def _end(self, folder: Folder, state: str, why: str) -> None:
        self.chain.append(f"run {state}", run=folder.path.name, why=why)
        folder.stand(replace(folder.standing, state=state, why=why, eta_s=None))  # type: ignore[arg-type]

    def _fail(self, folder: Folder | None, why: str) -> None:
        """End a run as failed, and outlive a disk that takes not even that: it is tried again."""
        try:
            if folder is not None:
                self._end(folder, "failed", why)
        except (ConfrereError, OSError):
            log.exception("that a run failed could not be written down")


def start(workspace: Workspace, *, grace_s: float = 30.0) -> None:
    """Serve until SIGTERM or SIGINT; ConfigError when another server holds the workspace.

    Guarantee: whenever the process ends, the next start goes on from the last finished round.
    """
    busy = "another server holds this workspace: stop it first (confrere server health)."
    with alone(workspace.folder / "server.lock", busy):
        renew_server(workspace)
        server = Server(workspace=workspace)
        server.chain.append("server started", pid=os.getpid())
        asyncio.run(_serve(server, grace_s))
        server.chain.append("server stopped")


async def _serve(server: Server, grace_s: float) -> None:
    config = uvicorn.Config(
        server.edge(),
        host=server.workspace.listen.host,
        port=server.workspace.listen.port,
        http=Certified,
        ws="none",
        ssl_context_factory=lambda *_: _tls(server.workspace),
        lifespan="on",
        log_config=None,
        access_log=False,
        limit_concurrency=1024,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
        server_header=False,
    )
    config.load()
    public = _Public(config)
    observing = Observing(server.workspace)
    health = Health(server.workspace, observer_port=observing.port)
    conducting = threading.Thread(target=server.conduct_all, name="conductor", daemon=True)
    _on_signals(server, public)
    conducting.start()
    tls = config.ssl or _tls(server.workspace)
    keeping = asyncio.create_task(_keep(server.workspace, tls, health, public, conducting))
    try:
        await public.serve()
    finally:
        server.halt.set()
        keeping.cancel()
        await asyncio.to_thread(conducting.join, grace_s)
        health.stop()
        observing.stop()


def _tls(workspace: Workspace) -> SSLContext:
    return server_context(workspace.server_chain, workspace.server_key, workspace.root)


class _Public(uvicorn.Server):
    """Uvicorn without its own signal handlers: the process has other things to end as well."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


def _on_signals(server: Server, public: uvicorn.Server) -> None:
    def stop(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        server.halt.set()
        public.should_exit = True

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, stop)


async def _keep(
    workspace: Workspace,
    tls: SSLContext,
    health: Health,
    public: uvicorn.Server,
    conducting: threading.Thread,
) -> None:
    """Say how the server is, and renew its certificate in time; no fault ends it."""
    shown = Shown(workspace=workspace, tls=tls)
    due = 0.0
    while True:
        health.say(serving=public.started and conducting.is_alive())
        due += LOOK_EVERY_S
        try:
            if due >= RENEW_EVERY_S:
                due = 0.0
                await asyncio.to_thread(renew_server, workspace)
            shown.look()
        except Exception:  # a full disk, a missing key: the certificate is good for weeks yet
            log.exception("the server's certificate could not be renewed or read again")
        await asyncio.sleep(LOOK_EVERY_S)


@dataclass(kw_only=True)
class Shown:
    """The certificate that the public port shows and the roots that it trusts, as on the disk.

    A root that is trusted no more is forgotten at the next start alone: OpenSSL only adds.
    """

    workspace: Workspace
    tls: SSLContext
    _seen: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self._seen = self._marks()

    def look(self) -> bool:
        """Read both anew if either file has changed, whoever changed it; say whether."""
        marks = self._marks()
        if marks == self._seen:
            return False
        self.tls.load_cert_chain(self.workspace.server_chain, self.workspace.server_key)
        self.tls.load_verify_locations(self.workspace.root)
        self._seen = marks  # only now: what could not be read is tried again
        return True

    def _marks(self) -> tuple[int, ...]:
        found = [path.stat() for path in (self.workspace.server_chain, self.workspace.root)]
        return tuple(mark for one in found for mark in (one.st_mtime_ns, one.st_ino))

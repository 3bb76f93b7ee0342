"""A masked round as a site's machine meets it: take the state up, go a step, put it away, reply.

Nothing is sent before what it leads to is put away; whatever goes wrong ends the round here.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar

import numpy as np

from confrere_client.masked import mask
from confrere_client.masked.mask_state import (
    Advertised,
    Confirmed,
    Floor,
    History,
    Masked,
    Member,
    Shared,
    State,
)
from confrere_common.errors import ExchangeError
from confrere_common.exchange import Task, Update
from confrere_common.secagg.masks import Draw
from confrere_common.secagg.messages import (
    Delivery,
    Invitation,
    Params,
    Question,
    Reply,
    Request,
    Roll,
    Survivors,
    decode,
    digest_of_run,
    encode,
    secret,
)
from confrere_common.storage import atomic_write
from confrere_common.weights import count, weights_digest

S = TypeVar("S")


@secret
class Notebook:
    """All that a site keeps of masked rounds."""

    history: History = ()
    state: State | None = None
    """Of the round in progress; with the secrets of one round, and gone with it."""


class Notes(Protocol):
    """Where a notebook lies."""

    def load(self) -> Notebook:
        """Return what was saved last."""

    def save(self, notebook: Notebook) -> None:
        """Keep *notebook* before anything is sent."""


@dataclass
class NotesInMemory:
    """A notebook that dies with the process, as in a simulation."""

    notebook: Notebook = field(default_factory=Notebook)

    def load(self) -> Notebook:
        """Return what was saved last."""
        return self.notebook

    def save(self, notebook: Notebook) -> None:
        """Keep *notebook*."""
        self.notebook = notebook


@dataclass(frozen=True)
class NotesInFile:
    """A notebook in a file that its owner alone may read, and that survives a crash."""

    path: Path

    def load(self) -> Notebook:
        """Return what was saved last; ExchangeError for a file that is not whole."""
        if not self.path.exists():
            return Notebook()
        return decode(Notebook, self.path.read_bytes())

    def save(self, notebook: Notebook) -> None:
        """Replace the file, mode 0600, as a whole."""
        # mkstemp makes its files 0600, and a rename keeps that.
        atomic_write(self.path, encode(notebook))


@dataclass(frozen=True, kw_only=True)
class Seat:
    """What a site needs to take part in masked rounds."""

    member: Member
    notes: Notes
    floor: Floor = field(default_factory=Floor)
    draw: Draw = os.urandom


Train: TypeAlias = Callable[[Task], Update]


def reply(request: Request, task: Task | None, seat: Seat, train: Train) -> Reply:
    """Go one step; ExchangeError, and the round is over for this site, when anything is amiss."""
    notebook = seat.notes.load()
    try:
        after, sent = _step(request, task, seat, train, notebook)
    except BaseException:
        seat.notes.save(replace(notebook, state=None))
        raise
    seat.notes.save(after)
    return sent


def _step(
    request: Request, task: Task | None, seat: Seat, train: Train, notebook: Notebook
) -> tuple[Notebook, Reply]:
    state, member = notebook.state, seat.member
    after: State | None = None
    sent: Reply
    match request:
        case Invitation(params=params):
            after, sent, history = mask.advertise(
                params, member, seat.floor, notebook.history, seat.draw
            )
            return Notebook(history=history, state=after), sent
        case Roll():
            after, sent = mask.share(_in(state, Advertised), request, member, seat.draw)
        case Delivery():
            return _masked(request, task, seat, train, notebook)
        case Survivors():
            after, sent = mask.confirm(_in(state, Masked), request, member)
        case Question():
            sent = mask.reveal(_in(state, Confirmed), request, member)
    return replace(notebook, state=after), sent


def _masked(
    delivery: Delivery, task: Task | None, seat: Seat, train: Train, notebook: Notebook
) -> tuple[Notebook, Reply]:
    state = mask.receive(_in(notebook.state, Shared), delivery, seat.member)
    update = train(_due(task, state.params))
    after, vector, history = mask.mask(
        state,
        seat.member,
        notebook.history,
        update.delta,
        update.images,
        rounding(state.params, seat.member.site),
    )
    return Notebook(history=history, state=after), vector


def _in(state: State | None, due: type[S]) -> S:
    if not isinstance(state, due):
        there = type(state).__name__ if state is not None else "not begun, or over"
        raise ExchangeError(
            f"a message of a masked round came out of turn: the round is {there} here, the message "
            f"is for {due.__name__}"
        )
    return state


def _due(task: Task | None, params: Params) -> Task:
    """Return the task if it is what all sites of the round signed."""
    if task is None:
        raise ExchangeError("a masked update is asked for, but no task came with it")
    if (digest_of_run(task.run), task.seed, task.round) != (params.run, params.seed, params.round):
        raise ExchangeError("the task is not of the run, seed and round that all sites signed")
    if count(task.weights) != params.entries:
        raise ExchangeError("the task's weights are more or fewer than all sites signed")
    if weights_digest(task.weights) != params.weights:
        raise ExchangeError("the task's weights are not those that all sites signed")
    return task


def rounding(params: Params, site: str) -> np.random.Generator:
    """Return what rounds this site's update: the same bits whenever the round is done anew."""
    text = f"{params.run} {params.seed} {params.round} {site}"
    return np.random.default_rng(list(hashlib.sha256(text.encode()).digest()))

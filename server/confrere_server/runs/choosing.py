"""Sites as judges of joined models: counts for a report, and one mean by which a round is chosen.

Each approved site is asked after every round what the joined model scores on its own validation
patients. Training ends when patience does, and the round that was best is published and evaluated.
What has been heard lies in ``course.json`` (``course``): a server that starts again knows it.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from confrere_common.config import Run
from confrere_common.errors import ExchangeError
from confrere_common.exchange import Answer, Refusal, Task
from confrere_common.judged import evaluation_of, is_due
from confrere_common.model import task_of
from confrere_common.validated import is_validated, read_validation, unchosen
from confrere_common.weights import weights_digest
from confrere_server.runs.course import Course, Heard, Score
from confrere_server.runs.judging import evaluate, judged
from confrere_server.runs.outcome import ABSENT
from confrere_server.runs.queue import Folder
from confrere_server.store import ServerState

FOR_GOOD = frozenset({"nothing-to-score", "policy-evaluation"})
"""Codes by which a site validates nothing in this run: it is spared the weights from then on."""


@dataclass(kw_only=True)
class Judges:
    """The sites of one run, asked what a joined model is worth."""

    folder: Folder
    there: Callable[[ServerState], Mapping[str, int]]
    """Sites that may be asked -> images that each enrolled with."""

    online: Callable[[], Collection[str]]
    ask: Callable[[Sequence[str], Task], Iterable[Answer]]
    note: Callable[..., Any]
    stand: Callable[[ServerState, str], None]
    """Say what is going on."""

    _waited: bool = False

    @cached_property
    def run(self) -> Run:
        """Return the run."""
        return self.folder.order.parsed()

    @cached_property
    def course(self) -> Course:
        """Return what is known of the rounds."""
        task = task_of(self.run)
        return Course(
            folder=self.folder.path,
            digest=self.folder.order.digest,
            patience=task.patience if task is not None else None,
            examine=self._validated,
        )

    def enough(self, state: ServerState) -> bool:
        """Have a new model validated, and say whether patience is at its end."""
        return not unchosen(self.run) and self.course.enough(state)

    def evaluate(self, state: ServerState) -> None:
        """Have the model scored where that is due; after the last round the chosen one is."""
        if unchosen(self.run) or state.round < self.run.federation.rounds:
            self._evaluate(state, state.round, state.round)

    def finished(self, last: ServerState) -> ServerState:
        """Return the last state with the weights of the round that is chosen, once evaluated.

        CheckpointError where these were lost.
        """
        if unchosen(self.run):
            return last
        weights, best = self.course.kept(last), self.course.best
        if self.course.chosen is not None:
            facts = {"round": best, "weights": weights_digest(weights), "rounds": last.round}
            self.note("chosen", run=self.folder.order.id, **facts)
        state = replace(last, weights=weights)
        self._evaluate(state, best, self.run.federation.rounds)
        return state

    def _evaluate(self, state: ServerState, round: int, due: int) -> None:
        """Have the weights in *state*, of *round*, scored as those of *due*: it costs no round."""
        if not round or not is_due(self.run, due) or judged(self.folder.path, due):
            return
        self.stand(state, f"the sites score the model of round {round}")
        sites, scored = self.there(state), replace(state, round=round)
        evaluate(
            self.folder, scored, sites, lambda task: self.ask(sorted(sites), task), self.note, due
        )

    def _validated(self, state: ServerState) -> Heard:
        """Return what sites that are there say of a joined model, and why some say nothing."""
        last = state.records[-1] if state.records else None
        if not is_validated(self.run, state.round) or (last is not None and last.void):
            return {}  # a void round joined nothing
        dumb = {
            site
            for heard in self.course.heard.values()
            for site, said in heard.items()
            if isinstance(said, str) and said in FOR_GOOD
        }
        # Who is away holds up no round; but a server that starts again lets its sites come back.
        there = self.there(state)
        near = self.online() if self._waited else there
        self._waited = True
        sites = {site: n for site, n in there.items() if site in near and site not in dumb}
        if not sites:
            return {}
        self.stand(state, f"the sites validate the model of round {state.round}")
        task = Task(
            run=self.folder.order.run, round=state.round, seed=self.run.seeds[0],
            weights=state.weights, evaluate=True, part="val",
        )  # fmt: skip
        found = heard_of(self.run, sites, self.ask(sorted(sites), task))
        for site, said in found.items():
            facts = {"round": state.round, "site": site}
            code = said if isinstance(said, str) else ""
            self.note("validated", run=self.folder.order.id, **facts, refused=code)
        return found


def heard_of(run: Run, sites: Mapping[str, int], answers: Iterable[Answer]) -> Heard:
    """Return each site's score and the images it is of; that it was silent, or unsound, if so.

    A site counts for no more images than it enrolled with: how many it validates on is its word.
    """
    asked = evaluation_of(run)
    said: dict[str, Score | str] = dict.fromkeys(sites, ABSENT)
    for answer in answers:
        if answer.site not in said or asked is None:
            continue
        if isinstance(answer, Refusal):
            said[answer.site] = answer.reason
            continue
        try:
            score, images = read_validation(answer.description, asked.min_cell)
            said[answer.site] = (score, max(min(images, sites[answer.site]), 1))
        except ExchangeError as fault:
            said[answer.site] = f"its score was left out: {fault}"
    return said


def course_of(folder: Folder) -> Course:
    """Return what a run's folder tells of its rounds; nobody is asked anything."""
    digest = folder.order.digest
    return Course(folder=folder.path, digest=digest, patience=None, examine=lambda _: {})


def why_ended(folder: Folder, last: int) -> str:
    """Return which round of *last* is published, where one was chosen; else nothing."""
    best = course_of(folder).chosen if folder.order.parsed().stage == "finetune" else None
    if best is None:
        return ""
    return f"of {last} rounds, number {best} was best on validation patients, and is published"

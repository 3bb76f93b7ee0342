"""A study as it goes on, for the person before the screen: live bars, or a line a round."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from confrere_client.measure.health import crossed
from confrere_client.train import BUFFER
from confrere_deploy.engine import SiteWatch
from confrere_server.rounds import Answered, Asked, Closed, Event, Observe

FEATURES = 512
"""Width of an encoder as the limits of an alarm need it: theirs is the same above about 50."""

MANY = 12
"""Above so many sites in a round only those at work have a bar."""


class Display:
    """Bars for all rounds of the study and for each site of the round; it needs ``with``."""

    def __init__(self, console: Console, total_rounds: int) -> None:
        self.console = console
        self.live = console.is_terminal
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not self.live,
        )
        self.study = self.bars.add_task("study, rounds", total=total_rounds, note="")
        self.sites: dict[str, TaskID] = {}
        self.crowded = False

    def __enter__(self) -> Self:
        """Start to draw."""
        self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the screen as it is."""
        self._clear()
        self.bars.stop()

    def observer(self, arm: str, seed: int, rounds: int) -> tuple[Observe, SiteWatch]:
        """Return what to call as one training goes on."""
        title = f"{arm}, seed {seed}"

        def observe(event: Event) -> None:
            match event:
                case Asked(round=number, cohort=cohort):
                    self._asked(f"{title}: round {number} of {rounds}", cohort)
                case Answered(record=record):
                    note = f"left out: {record.refused}" if record.refused else ""
                    self._end(record.site, note)
                    for alarm in crossed(record.metrics, min(BUFFER, record.images), FEATURES):
                        self._say(f"{title}: site '{record.site}': {alarm} speaks of a collapse")
                    if record.refused:
                        self._say(f"{title}: site '{record.site}' {note}")
                case Closed(record=record):
                    self._closed(title, rounds, event)

        return observe, self._watch

    def skip(self, rounds: int) -> None:
        """Count rounds that were done in an earlier session."""
        self.bars.advance(self.study, rounds)

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._say(text)

    def _asked(self, title: str, cohort: tuple[str, ...]) -> None:
        self._clear()
        self.bars.update(self.study, description=title)
        self.crowded = len(cohort) > MANY
        if self.live and not self.crowded:
            self.sites = {
                site: self.bars.add_task(f"  {site}", total=None, note="waits") for site in cohort
            }

    def _watch(self, site: str, step: int, steps: int, loss: float) -> None:
        if not self.live:
            return
        if site not in self.sites:
            self.sites[site] = self.bars.add_task(f"  {site}", total=steps, note="")
        task = self.sites[site]
        self.bars.update(task, completed=step, total=steps, note=f"loss {loss:.3f}")

    def _end(self, site: str, note: str) -> None:
        if site not in self.sites:
            return
        if self.crowded:
            self.bars.remove_task(self.sites.pop(site))
        elif note:
            self.bars.update(self.sites[site], note=note)

    def _closed(self, title: str, rounds: int, event: Closed) -> None:
        self.bars.advance(self.study)
        record = event.record
        loss = "no loss" if record.loss is None else f"loss {record.loss:.4f}"
        part = sum(1 for site in record.sites if not site.refused)
        line = (
            f"{title}: round {record.round}/{rounds}, {loss}, {part}/{len(record.sites)} sites, "
            f"{record.seconds:.1f} s"
        )
        if not self.live:
            self._say(line)
        if record.void:
            self._say(f"{title}: round {record.round} is void: {record.void}")

    def _clear(self) -> None:
        for task in self.sites.values():
            self.bars.remove_task(task)
        self.sites = {}

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

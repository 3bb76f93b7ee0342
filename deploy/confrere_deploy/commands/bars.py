"""Progress of long work on a terminal: a bar for each step; nothing where nobody looks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TypeAlias

from rich.console import Console

REDRAW_S = 0.2

Watch: TypeAlias = Callable[[str, int, int | None], None]
"""Hear of a step how much is done, of how much."""


@contextmanager
def bars(console: Console) -> Iterator[Watch]:
    """Show each step with its rate and the time that is left; nothing where nobody looks."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    shown = Progress(
        TextColumn("{task.description:>12}", markup=False),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    steps: dict[str, TaskID] = {}
    drawn_s = 0.0

    def watch(step: str, done: int, total: int | None) -> None:
        nonlocal drawn_s
        last = done == total
        if step in steps and not last and monotonic() - drawn_s < REDRAW_S:
            return
        drawn_s = monotonic()
        if step not in steps:
            steps[step] = shown.add_task(step, total=total, rate="")
        speed = shown.tasks[steps[step]].speed
        rate = f"{speed:.0f}/s" if speed else ""
        shown.update(steps[step], completed=done, total=total, rate=rate)

    with shown:
        yield watch

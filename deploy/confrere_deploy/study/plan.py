"""What a study is going to do, said before it begins."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from confrere_client.data.images import Images
from confrere_client.data.volumes import Volumes
from confrere_client.finetune.lesson import lesson_of
from confrere_client.schedule import steps_in_round
from confrere_client.train import Place, Trainer
from confrere_common.config import Run
from confrere_common.errors import TrainingError
from confrere_common.model import encoder_weights, objective_of, shared_weights, task_of
from confrere_common.weights import count, nbytes
from confrere_deploy.study import private_plan
from confrere_deploy.study.holdout import Holdout
from confrere_server.cohort import draw_cohort

TRIED_STEPS = 2
"""Steps taken to estimate the time of all."""

SHOWN = 12
"""Sites listed one by one; more are summed up."""


def plan(run: Run, images: Images, sites: Mapping[str, NDArray[np.int64]], held: Holdout) -> Table:
    """Return a table of sites, encoder, bytes and time."""
    few = replace(run.train, steps_per_round=TRIED_STEPS, epochs_per_round=None, compile=False)
    trainer = Trainer(replace(run, train=few))
    weights = shared_weights(trainer.model)
    seconds = _estimate(run, trainer, images, sites)
    rounds = run.federation.rounds
    asked = len(draw_cohort(tuple(sites), run.federation.cohort, 1, 0))
    table = Table(title=f"Plan of '{run.name}'", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("images", _images(images))
    table.add_row("sites", _sites(images, sites))
    table.add_row("test", f"{len(held.test)} images of patients whom no site trains on")
    if run.data.leave_out:
        names = ", ".join(run.data.leave_out)
        table.add_row("left out", f"{names}: nobody learns from them, their test is told apart")
    encoder = count(encoder_weights(weights))
    table.add_row("encoder", f"{run.encoder.name}, {encoder / 1e6:.2f} M parameters")
    noun = "method" if task_of(run) is None else "task"
    table.add_row(noun, f"{objective_of(run).name}, {count(weights) / 1e6:.2f} M parameters travel")
    table.add_row(
        "rounds",
        f"{rounds} with {asked} sites each; rule {run.federation.rule.name}; per round "
        f"{_mib(nbytes(weights) * asked)} down and as much up",
    )
    table.add_row("seeds, arms", f"{list(run.seeds)}, floors: {run.floors}")
    table.add_row("device", f"{trainer.device}")
    noised = sum(parameter.numel() for parameter in trainer.trained)
    for title, text in private_plan.rows(
        run, private_plan.patients_at(images.catalog, sites), noised
    ):
        table.add_row(title, text)
    table.add_row("time", _duration(seconds))
    return table


def show(console: Console, table: Table) -> None:
    """Print the plan."""
    console.print(table)


def _images(images: Images) -> str:
    catalog = images.catalog
    size = " x ".join(map(str, images.sides))
    classes = f"{len(catalog.classes)} classes" if catalog.classes else "no labels"
    skipped = f"; {len(images.skipped)} unreadable, skipped" if images.skipped else ""
    return (
        f"{len(catalog)} of {catalog.patient_count} patients, {images.channels} x {size}"
        f"{_cut_from(images)}, {classes}{skipped}"
    )


def _cut_from(images: Images) -> str:
    """Say what crops are taken of; nothing where images are taken whole."""
    if not isinstance(images.pixels, Volumes):
        return ""
    least, most = np.min(images.pixels.sizes, axis=0), np.max(images.pixels.sizes, axis=0)
    small = np.less(images.pixels.sizes, images.sides).any(axis=1).sum()
    filled = f", {small} filled up with black" if small else ""
    ends = " to ".join(dict.fromkeys(" x ".join(map(str, sides)) for sides in (least, most)))
    return f" (crops of {ends}{filled})"


def _sites(images: Images, sites: Mapping[str, NDArray[np.int64]]) -> str:
    lines = [
        f"{site}: {len(rows)} images of {len(np.unique(images.catalog.patients[rows]))} patients"
        for site, rows in list(sites.items())[:SHOWN]
    ]
    if len(sites) > SHOWN:
        total = sum(len(rows) for rows in sites.values())
        lines.append(f"and {len(sites) - SHOWN} more; {total} images in all")
    return "\n".join(lines)


def _estimate(
    run: Run, trainer: Trainer, images: Images, sites: Mapping[str, NDArray[np.int64]]
) -> float | None:
    """Return seconds for all training, from the second of two tiny rounds that are thrown away."""
    rows = max(sites.values(), key=len)
    some = lesson_of(run, images, rows[: run.train.batch])
    weights = shared_weights(trainer.model)
    try:
        tried = [
            trainer.round(weights, {}, some, place=Place(site="plan", round=number, seed=0))
            for number in (1, 2)
        ]
    except TrainingError:
        return None  # the rounds will tell, site by site
    step = tried[-1].metrics["seconds"] / TRIED_STEPS
    steps = sum(steps_in_round(run.train, len(rows)) for rows in sites.values())
    share = run.federation.cohort
    arms = {"none": share, "cheap": share, "all": share + 2.0}[run.floors]
    return step * steps * run.federation.rounds * arms * len(run.seeds)


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown: two trial steps gave no finite loss"
    if seconds < 90:
        return f"about {seconds:.0f} s of training on this machine"
    minutes = seconds / 60
    said = f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
    return f"about {said} of training on this machine"

"""A study on one machine: every arm and seed with the production code, then an honest report."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from confrere_client.data.cache import default_cache_dir
from confrere_client.data.images import Images, open_images
from confrere_client.device import choose_device
from confrere_common.config import Run
from confrere_common.errors import RoundError
from confrere_common.loading import digest, dump
from confrere_common.model import build_model, load_weights, shared_weights
from confrere_common.preparation import must_be_prepared
from confrere_common.weights import Weights
from confrere_deploy.engine import ENGINES, must_cut, must_run
from confrere_deploy.families import ALL_FAMILIES
from confrere_deploy.split import sites_of_test, spread
from confrere_deploy.study import arms, plan
from confrere_deploy.study.cost import Clock
from confrere_deploy.study.holdout import holdout, without
from confrere_deploy.study.measure import (
    Exam,
    Features,
    Fingerprint,
    Scores,
    load_scores,
    save_scores,
)
from confrere_deploy.study.options import Options as Options
from confrere_deploy.study.options import observed
from confrere_deploy.study.outbox import STUDY, open_folder
from confrere_deploy.study.progress import Display
from confrere_deploy.study.summary import Results, summarise
from confrere_server.cohort import draw_cohort
from confrere_server.joining import must_join
from confrere_server.masked import must_be_maskable, must_hide
from confrere_server.store import ServerState

ALONE = "inline"
"""The engine of an arm of one site: there is nothing to spread."""


def carry_out(run: Run, options: Options, console: Console) -> Results:
    """Carry out a study and write all that it leaves behind into ``options.out``."""
    clock = Clock(workers=options.engine != ALONE)
    # Before the images, which may take minutes to read.
    must_run(options.engine)
    must_cut(options.engine, run)
    must_be_maskable(run)
    must_join(run)
    choose_device(run.train.device)
    images = _open(run, options.folder, console)
    must_be_prepared(images.preparation, run.data.preparation)
    run = settled(run, images)
    text = dump(run, ALL_FAMILIES)
    # With the versions: scores that an older code kept are none of this study's.
    study = {"run": digest(text), "images": images.digest, "name": run.name}
    study |= {"confrere": version("confrere"), "torch": version("torch")}
    held = holdout(images.catalog, run.data.test_share, run.data.val_share, run.data.seed)
    held, unseen = without(images.catalog, held, run.data.leave_out)
    sites = spread(run.data, images.catalog, held.train)
    must_hide(run, len(draw_cohort(tuple(sites), run.federation.cohort, 1, 0)))
    table = plan.plan(run, images, sites, held)
    # Only now, that nothing in the run or its images stands against it, is the folder taken.
    begun = (options.out / STUDY).exists()
    open_folder(options.out, study, resume=options.resume)
    clock.keep(options.out, resumed=begun)
    console.print(f"report: {options.out / 'report.html'}", markup=False, soft_wrap=True)
    plan.show(console, table)

    where = sites_of_test(images.catalog, sites, held.test, run.data.seed)
    exam = Exam(images=images, holdout=held, sites=where, unseen=unseen)
    with clock:
        done = _train_all(run, options, exam, sites, console, clock)
        results = replace(done, clock=clock, command=options.command)
        summarise(results, options.out, console)
    return results


def settled(run: Run, images: Images) -> Run:
    """Return the run with what only the images could tell filled in: channels and axes."""
    channels, dims = images.channels, images.dims
    data = replace(run.data, channels=channels, dims=dims)  # type: ignore[arg-type]
    return replace(run, data=data)


def _open(run: Run, folder: Path, console: Console) -> Images:
    with console.status("reading images") as status:

        def progress(done: int, total: int) -> None:
            status.update(f"reading images: {done} of {total}")

        return open_images(
            run.data.source,
            folder=folder,
            image_px=run.data.image_px,
            crop_px=run.data.crop_px,
            channels=run.data.channels,
            cache_dir=default_cache_dir(),
            progress=progress,
        )


def _train_all(
    run: Run,
    options: Options,
    exam: Exam,
    sites: Mapping[str, NDArray[np.int64]],
    console: Console,
    clock: Clock,
) -> Results:
    total = arms.rounds_in(run, list(sites)) * len(run.seeds)
    scores: dict[str, list[Scores]] = {name: [] for name in arms.FLOORS[run.floors]}
    states: dict[int, ServerState] = {}
    shown: list[Features] = []
    failed: dict[str, str] = {}
    with Display(console, total) as display:
        training = arms.Training(
            run=run,
            images=exam.images,
            sites=sites,
            folder=options.out,
            engine=ENGINES.member(options.engine),
            alone=ENGINES.member(ALONE),
            observer=partial(observed, display, clock),
            resources=options.resources,
        )
        for seed in run.seeds:
            studio = Studio(training=training, exam=exam, seed=seed)
            # The federation first: no floor that fails may cost it.
            for name in sorted(scores, key=lambda arm: arm != "federated"):
                if name == "raw" and scores[name]:
                    continue  # pixels know no seed
                display.say(f"{name}, seed {seed}: {arms.ARMS[name]}")
                try:
                    scores[name].append(studio.scores(name))
                except RoundError as fault:
                    if name == "federated":
                        raise
                    failed[name] = f"The arm '{name}' is missing, seed {seed}: {fault}"
                    display.say(failed[name])
            states[seed] = studio.federated()
            if not shown:
                shown.append(studio.embed(states[seed].weights))
    return Results(
        run=run,
        exam=exam,
        sites=sites,
        scores={name: kept for name, kept in scores.items() if name not in failed},
        failed=tuple(failed.values()),
        states=states,
        shown=shown[0],
    )


@dataclass(frozen=True, kw_only=True)
class Studio:
    """One seed of a study: trains an arm, or takes it up where it was left, and examines it."""

    training: arms.Training
    exam: Exam
    seed: int

    def scores(self, arm: str) -> Scores:
        """Return what *arm* scored, examined now unless an earlier session kept it.

        Kept scores hold only for the very weights that scored them: an arm that was trained again,
        or whose checkpoint was exchanged, is examined again.
        """
        path = self.training.folder / arm / f"seed-{self.seed}" / "scores.npz"
        kept = load_scores(path)
        if kept is not None and kept.digest == self._digest(arm):
            return kept
        seen = Fingerprint()
        found = replace(self.exam.scores(self._features(arm, seen)), digest=seen.text)
        save_scores(path, found)
        return found

    def federated(self) -> ServerState:
        """Return the federation's final state; it is at hand once its arm was scored."""
        return arms.federated(self.training, self.seed)

    def embed(self, weights: Weights) -> Features:
        """Return every image's features under the run's encoder with *weights*."""
        model = build_model(self.training.run, self.seed)
        load_weights(model, weights)
        return self.exam.embed(model.encoder, choose_device(self.training.run.train.device))

    def _features(self, arm: str, seen: Fingerprint) -> Iterator[Features]:
        """Yield the features of each of the arm's models, its weights added to *seen*."""
        for weights in self._weights(arm):
            seen.take(weights)
            yield self.exam.raw() if arm == "raw" else self.embed(weights)

    def _digest(self, arm: str) -> str:
        seen = Fingerprint()
        for weights in self._weights(arm):
            seen.take(weights)
        return seen.text

    def _weights(self, arm: str) -> Iterator[Weights]:
        """Yield the weights of each of the arm's models, trained as they are asked for."""
        match arm:
            case "raw":
                yield {}  # pixels have none, and the folder is theirs: see `open_folder`
            case "random":
                yield shared_weights(build_model(self.training.run, self.seed))
            case "local":
                yield from (state.weights for state in arms.local(self.training, self.seed))
            case "centralised":
                yield arms.centralised(self.training, self.seed).weights
            case _:
                yield self.federated().weights

"""A study on one machine: every arm and seed with the production code, then an honest report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from confrere_client.data.cache import default_cache_dir
from confrere_client.data.images import Images, open_images
from confrere_client.device import choose_device
from confrere_common.config import Run
from confrere_common.encoder import Encoder
from confrere_common.errors import RoundError
from confrere_common.loading import digest, dump
from confrere_common.model import build_model, load_weights
from confrere_common.weights import Weights
from confrere_deploy import arms, plan
from confrere_deploy.engine import ENGINES
from confrere_deploy.families import ALL_FAMILIES
from confrere_deploy.holdout import Holdout, holdout
from confrere_deploy.measure import Exam, Features, Scores, load_scores, save_scores
from confrere_deploy.outbox import open_folder
from confrere_deploy.progress import Display
from confrere_deploy.split import SPLITS
from confrere_deploy.summary import Clock, Results, summarise
from confrere_server.store import ServerState


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a study is carried out, as against what it is."""

    folder: Path
    """Where the source's relative paths start."""

    out: Path
    resume: bool = False
    engine: str = "inline"
    resources: Mapping[str, float]
    """CPUs and GPUs that the ray engine gives each site."""

    command: str | None = None


def carry_out(run: Run, options: Options, console: Console) -> Results:
    """Carry out a study and write all that it leaves behind into ``options.out``."""
    clock = Clock()
    images = _open(run, options.folder, console)
    run = settled(run, images)
    text = dump(run, ALL_FAMILIES)
    # With the versions: scores that an older code kept are none of this study's.
    study = {"run": digest(text), "images": images.digest, "name": run.name}
    study |= {"confrere": version("confrere"), "torch": version("torch")}
    held = holdout(images.catalog, run.data.test_share, run.data.val_share, run.data.seed)
    sites = spread(run, images, held)
    table = plan.plan(run, images, sites, held)
    # Only now, that nothing in the run or its images stands against it, is the folder taken.
    ENGINES.member(options.engine)
    open_folder(options.out, study, resume=options.resume)
    console.print(f"report: {options.out / 'report.html'}", markup=False, soft_wrap=True)
    plan.show(console, table)

    exam = Exam(images=images, holdout=held)
    done = _train_all(run, options, exam, sites, console)
    results = replace(done, clock=clock, command=options.command)
    summarise(results, options.out, console)
    return results


def settled(run: Run, images: Images) -> Run:
    """Return the run with what only the images could tell filled in: channels and axes."""
    channels, dims = images.channels, images.dims
    data = replace(run.data, channels=channels, dims=dims)  # type: ignore[arg-type]
    return replace(run, data=data)


def spread(run: Run, images: Images, held: Holdout) -> dict[str, NDArray[np.int64]]:
    """Return site -> rows that it trains on; none of them is of a test or validation patient."""
    split = SPLITS.member(run.data.split.name)
    knobs = SPLITS.configure(run.data.split)
    generator = np.random.default_rng(run.data.seed)
    found = split(images.catalog.select(held.train), knobs, generator)
    return {site: held.train[rows] for site, rows in found.items()}


def _open(run: Run, folder: Path, console: Console) -> Images:
    with console.status("reading images") as status:

        def progress(done: int, total: int) -> None:
            status.update(f"reading images: {done} of {total}")

        return open_images(
            run.data.source,
            folder=folder,
            image_px=run.data.image_px,
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
            alone=ENGINES.member("inline"),
            observer=display.observer,
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
                shown.append(studio.embed([states[seed]])[0])
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
        """Return what *arm* scored, trained now unless an earlier session kept it."""
        path = self.training.folder / arm / f"seed-{self.seed}" / "scores.npz"
        found = load_scores(path)
        if found is None:
            found = self.exam.scores(self._features(arm))
            save_scores(path, found)
        return found

    def federated(self) -> ServerState:
        """Return the federation's final state; it is at hand once its arm was scored."""
        return arms.federated(self.training, self.seed)

    def embed(self, states: Sequence[ServerState]) -> list[Features]:
        """Return every image's features under each state's encoder."""
        return [self._embed(self.encoder(state.weights)) for state in states]

    def encoder(self, weights: Weights | None = None) -> Encoder:
        """Return the run's encoder: as it starts, or with *weights*."""
        model = build_model(self.training.run, self.seed)
        if weights is not None:
            load_weights(model, weights)
        return model.encoder

    def _features(self, arm: str) -> list[Features]:
        match arm:
            case "raw":
                return [self.exam.raw()]
            case "random":
                return [self._embed(self.encoder())]
            case "local":
                return self.embed(arms.local(self.training, self.seed))
            case "centralised":
                return self.embed([arms.centralised(self.training, self.seed)])
            case _:
                return self.embed([self.federated()])

    def _embed(self, encoder: Encoder) -> Features:
        return self.exam.embed(encoder, choose_device(self.training.run.train.device))

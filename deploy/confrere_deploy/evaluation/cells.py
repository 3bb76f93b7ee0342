"""A cell: one training of one arm with one seed, judged; finished ones are kept and not done again.

Each finished cell is one small file, ``cells/NAME.npz``, written at once or not at all. What a
training leaves on its way lies in ``work/NAME`` until its cell is finished. A cell's name holds a
digest of all that it depends on: the same folder may be asked for more parts later.

Shapes: N images.
"""

import hashlib
import io
import json
import re
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from confrere_client.device import choose_device
from confrere_client.finetune.judge import Answers, Exam, Judge, Rows
from confrere_common.errors import ConfigError
from confrere_common.loading import dump
from confrere_common.model import build_model, load_weights
from confrere_common.storage import atomic_write
from confrere_common.task import FineTask
from confrere_deploy.engine import ENGINES, SiteWatch
from confrere_deploy.study import arms
from confrere_deploy.study.cost import Clock
from confrere_deploy.study.finetuning import Arm, Lecture, Studio
from confrere_deploy.study.options import observed
from confrere_deploy.study.progress import Display
from confrere_server.rounds import Observe

CELLS, WORK = "cells", "work"
ENGINE = "inline"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A training that is to be judged."""

    arm: str
    lecture: Lecture
    seed: int
    part: str = "all"
    """What is learned from, in a word."""

    keep: bool = False
    """Whether its network is needed once more."""

    @property
    def name(self) -> str:
        """Return a file's name that no other cell has."""
        lecture = self.lecture
        running = hashlib.sha256(f"{dump(lecture.run)}{lecture.images.digest}".encode())
        for site, rows in lecture.sites.items():
            running.update(site.encode() + rows.tobytes())
        for rows in (lecture.val, lecture.test):
            running.update(rows.tobytes())
        plain = re.sub(r"[^A-Za-z0-9.]+", "-", f"{self.arm} {self.part}").strip("-")
        return f"{plain}-seed-{self.seed}-{running.hexdigest()[:12]}"

    @property
    def rounds(self) -> int:
        """Return how many rounds it has at most."""
        return self.lecture.run.federation.rounds


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a cell came to."""

    answers: Answers
    asked: Rows
    val: Answers = field(default_factory=dict)
    """A classifier's answers for validation images, in the order of the lecture's."""

    scores: Mapping[int, float]
    losses: Mapping[int, float | None]
    best: int
    rounds: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """Where cells are finished, one after the other."""

    out: Path
    judge: Judge
    display: Display
    clock: Clock

    def kept(self, cell: Cell) -> Finished | None:
        """Return a cell that was finished before; None where it was not, or cannot be read."""
        return loaded(self.out / CELLS / f"{cell.name}.npz")

    def finished(self, cell: Cell) -> Finished:
        """Return the cell, trained and judged now if it was not before."""
        found = self.kept(cell)
        if found is not None:
            self.display.skip(cell.rounds)
            return found
        arm = self._trained(cell)
        self.display.skip(cell.rounds - arm.rounds)  # patience was at its end
        done = Finished(
            answers=arm.answers,
            asked=arm.asked,
            val=arm.val,
            scores=arm.scores,
            losses=arm.losses,
            best=arm.best,
            rounds=arm.rounds,
            seconds=arm.seconds,
        )
        if cell.keep:
            whole = {name: tensor.contiguous() for name, tensor in arm.weights.items()}
            atomic_write(self._weights_at(cell), save(whole))
        atomic_write(self.out / CELLS / f"{cell.name}.npz", stored(done))
        shutil.rmtree(self.out / WORK / cell.name, ignore_errors=True)
        return done

    def task(self, cell: Cell) -> FineTask:
        """Return a finished cell's network, trained anew where its weights are gone."""
        try:
            weights = load(self._weights_at(cell).read_bytes())
        except (OSError, SafetensorError):
            weights = dict(self._trained(cell).weights)
            atomic_write(self._weights_at(cell), save(weights))
        return task_with(cell, weights)

    def _weights_at(self, cell: Cell) -> Path:
        return self.out / CELLS / f"{cell.name}.safetensors"

    def _trained(self, cell: Cell) -> Arm:
        lecture = cell.lecture
        title = f"{cell.arm}, {cell.part}"

        def observer(_: str, seed: int, rounds: int) -> tuple[Observe, SiteWatch]:
            return observed(self.display, self.clock, title, seed, rounds)

        training = arms.Training(
            run=lecture.run,
            images=lecture.images,
            sites=lecture.sites,
            folder=self.out / WORK / cell.name,
            engine=ENGINES.member(ENGINE),
            alone=ENGINES.member(ENGINE),
            observer=observer,
            resources={},
            warm=lecture.warm,
        )
        studio = Studio(lecture=lecture, training=training, judge=self.judge)
        return studio.arm("federated", cell.seed)


def task_with(cell: Cell, weights: Mapping[str, Tensor]) -> FineTask:
    """Return the cell's network with these weights, in evaluation mode on the run's device."""
    run = cell.lecture.run
    model = build_model(run, cell.seed)
    if not isinstance(model, FineTask):
        raise ConfigError(["stage is pretrain: write stage: finetune, and a section finetune."])
    load_weights(model, weights)
    return model.to(choose_device(run.train.device)).eval()


def exam(lecture: Lecture, rows: NDArray[np.int64]) -> Exam:
    """Return the exam on some images."""
    device = choose_device(lecture.run.train.device)
    return Exam(
        run=lecture.run, images=lecture.images, learned=lecture.learned, asked=rows, device=device
    )


def stored(done: Finished) -> bytes:
    """Return a cell as bytes of an .npz without objects."""
    arrays: dict[str, Any] = {f"answer/{name}": values for name, values in done.answers.items()}
    arrays |= {f"val/{name}": values for name, values in done.val.items()}
    told = {
        "scores": {str(number): _finite(score) for number, score in done.scores.items()},
        "losses": {str(number): loss for number, loss in done.losses.items()},
        "best": done.best,
        "rounds": done.rounds,
        "seconds": done.seconds,
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, asked=done.asked, told=np.array(json.dumps(told)), **arrays)
    return buffer.getvalue()


def loaded(path: Path) -> Finished | None:
    """Return a stored cell; None when there is none, or it cannot be read."""
    try:
        # From memory: of a torn file, numpy would leave the handle open.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as kept:
            told = json.loads(str(kept["told"]))
            under = partial(_under, {name: kept[name] for name in kept.files})
            return Finished(
                answers=under("answer/"),
                asked=kept["asked"],
                val=under("val/"),
                scores={
                    int(number): float("nan") if score is None else score
                    for number, score in told["scores"].items()
                },
                losses={int(number): loss for number, loss in told["losses"].items()},
                best=told["best"],
                rounds=told["rounds"],
                seconds=told["seconds"],
            )
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile):
        return None


def _under(arrays: Mapping[str, NDArray[Any]], start: str) -> dict[str, NDArray[Any]]:
    return {name[len(start) :]: a for name, a in arrays.items() if name.startswith(start)}


def _finite(score: float) -> float | None:
    return score if np.isfinite(score) else None

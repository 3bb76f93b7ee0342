"""What the downstream benchmarks share: pre-train, fine-tune and judge with the product's own code.

A *unit* is one way of fine-tuning at one seed. It goes the way of ``confrere finetune`` and of
``confrere simulate`` with ``stage: finetune`` (``study.finetuning.Studio``); its start is an
encoder that ``study.arms`` trained as ``confrere simulate`` does, with the same seed, on the
patients who are in no test. What a unit answered is kept in *place*, so that a killed script goes
on with the next.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confrere_client.data.cache import default_cache_dir
from confrere_client.data.images import Images, open_images
from confrere_client.finetune.judge import Answers, judge_of
from confrere_common.augment.pipeline import PREPROCESSING
from confrere_common.config import Run
from confrere_common.family import Named
from confrere_common.loading import parse_run
from confrere_common.model import decoder_weights, input_of, whole_encoder
from confrere_common.release import Card, save_release
from confrere_common.storage import atomic_write
from confrere_common.weights import Weights
from confrere_deploy.engines.inline import inline
from confrere_deploy.families import ALL_FAMILIES
from confrere_deploy.simulate import settled
from confrere_deploy.split import spread
from confrere_deploy.study import arms
from confrere_deploy.study.finetuning import Arm, Lecture, Studio, joined, prepared
from confrere_deploy.study.holdout import holdout

Plain = Mapping[str, Any]
More = Callable[[Studio, Arm, int], Answers]
"""Studio, what was fine-tuned there, seed -> further answers for the same images."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """How an encoder was pre-trained."""

    name: str
    """What tables call it."""

    plain: Plain
    """The run of the pre-training, as a file would hold it."""

    arm: str = "federated"
    """``federated``, or ``local``: each site by itself."""

    leaves_out: str = ""
    """A site whose images are not there."""

    seed: int | None = None
    """Of the pre-training; absent: that of the fine-tuning."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Way:
    """One way of fine-tuning; a row of a table, but for its seeds."""

    data: str
    plain: Plain
    """The run of the fine-tuning, as a file would hold it."""

    tuned: str
    """``federated``, ``local`` (each site alone), ``here`` (all at one hospital), or a floor:
    ``raw`` or ``probe`` (the least that can be learned on the start, frozen)."""

    start: Start | None = None
    leaves_out: str = ""
    """A site that takes no part and alone is asked in the test."""

    facts: Plain = field(default_factory=dict)
    """What tables tell of the row."""

    def key(self, seed: int) -> str:
        """Return what tells units apart."""
        text = json.dumps({**asdict(self), "facts": {}, "seed": seed}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True, kw_only=True)
class Desk:
    """Where data and kept work lie."""

    data: Path
    place: Path

    def run(self, plain: Plain, seed: int) -> Run:
        """Return a run with one seed; whatever it does not say of rounds is as it is shipped."""
        return parse_run({**plain, "seeds": [seed], "floors": "none"}, ALL_FAMILIES)

    def images(self, run: Run) -> Images:
        """Return the run's images, from the cache where they were read before."""
        source = run.data.source
        return _opened(source.name, json.dumps(source.knobs), run.data.image_px, self.data)

    def unit(self, way: Way, seed: int, more: "More | None" = None) -> Arm:
        """Return a unit, made now unless it is kept; *more* adds answers of its own."""
        kept = self.place / "units" / f"{way.key(seed)}.npz"
        if kept.exists():
            return _load(kept)
        if way.start is not None:
            self.starts(way.start, seed)
        began = time.process_time()
        arm, studio = self._made(way, seed)
        if more is not None:
            arm = replace(arm, answers={**arm.answers, **more(studio, arm, seed)})
        _save(kept, replace(arm, seconds=time.process_time() - began))
        rmtree(self.place / "work" / way.key(seed), ignore_errors=True)
        return _load(kept)

    def has(self, way: Way, seed: int) -> bool:
        """Say whether a unit is kept."""
        return (self.place / "units" / f"{way.key(seed)}.npz").exists()

    def lecture(self, way: Way, seed: int, start: Path | None = None) -> Lecture:
        """Return what is fine-tuned: images, sites, validation and test patients, the start."""
        plain = dict(way.plain)
        if start is not None:
            plain["finetune"] = {**plain["finetune"], "start": str(start)}
        run = self.run({**plain, "stage": "finetune"}, seed)
        lecture = prepared(run, self.images(run), self.data, alone=way.tuned == "here")
        return without(lecture, way.leaves_out) if way.leaves_out else lecture

    def starts(self, start: Start, seed: int) -> Mapping[str, Path]:
        """Return site -> its encoder; '' is everybody's."""
        seed = seed if start.seed is None else start.seed
        text = json.dumps({**asdict(start), "name": "", "seed": seed}, sort_keys=True)
        folder = self.place / "starts" / hashlib.sha256(text.encode()).hexdigest()[:24]
        done = folder / "done.json"
        if not done.exists():
            began = time.process_time()
            files = self._pretrained(start, seed, folder)
            told = {"files": files, "cpu_s": time.process_time() - began, "what": asdict(start)}
            atomic_write(done, json.dumps(told, default=str).encode())
            print(f"  pre-trained {start.name}, seed {seed}: {told['cpu_s']:.0f} s", flush=True)
        return {
            site: folder / file for site, file in json.loads(done.read_bytes())["files"].items()
        }

    def _pretrained(self, start: Start, seed: int, folder: Path) -> dict[str, str]:
        run = self.run(start.plain, seed)
        images = self.images(run)
        run = settled(run, images)
        held = holdout(images.catalog, run.data.test_share, run.data.val_share, run.data.seed)
        sites = spread(run.data, images.catalog, held.train)
        sites = {site: rows for site, rows in sites.items() if site != start.leaves_out}
        training = _training(run, images, sites, folder / "work", {})
        if start.arm == "federated":
            found = {"": arms.federated(training, seed).weights}
        else:
            states = arms.local(training, seed)
            found = {site: state.weights for site, state in zip(sites, states, strict=True)}
        files = {site: f"{number}/encoder.safetensors" for number, site in enumerate(found)}
        for site, weights in found.items():
            (folder / files[site]).parent.mkdir(parents=True, exist_ok=True)
            _export(run, folder / files[site], weights)
        return files

    def _made(self, way: Way, seed: int) -> tuple[Arm, Studio]:
        if way.start is not None and way.start.arm == "local":
            return self._each_from_its_own(way, seed)
        start = self.starts(way.start, seed)[""] if way.start is not None else None
        studio = self._studio(way, seed, self.lecture(way, seed, start))
        return studio.arm(_ARMS[way.tuned], seed), studio

    def _each_from_its_own(self, way: Way, seed: int) -> tuple[Arm, Studio]:
        """Fine-tune each site alone, from the encoder that it pre-trained alone."""
        found = []
        for site, start in self.starts(way.start, seed).items() if way.start else ():
            lecture = self.lecture(way, seed, start)
            if site not in lecture.sites or not (lecture.test_sites == site).any():
                continue
            studio = self._studio(way, seed, lecture)
            only = replace(
                studio.training,
                sites={site: lecture.sites[site]},
                folder=studio.training.folder / hashlib.sha256(site.encode()).hexdigest()[:8],
            )
            found.append(replace(studio, training=only).arm("local", seed))
        return joined(found), studio

    def _studio(self, way: Way, seed: int, lecture: Lecture) -> Studio:
        folder = self.place / "work" / way.key(seed)
        training = _training(lecture.run, lecture.images, lecture.sites, folder, lecture.warm)
        return Studio(lecture=lecture, training=training, judge=judge_of(lecture.run))


_ARMS = {"federated": "federated", "here": "federated", "local": "local", "raw": "raw",
         "probe": "probe"}  # fmt: skip


def without(lecture: Lecture, site: str) -> Lecture:
    """Return the lecture without a site, whose patients alone are asked in the test."""
    catalog = lecture.images.catalog
    own = np.flatnonzero((catalog.sites == site) & (catalog.labels >= 0))
    elsewhere = catalog.patients[catalog.sites != site]
    own = own[~np.isin(catalog.patients[own], elsewhere)]
    return replace(
        lecture,
        sites={name: rows for name, rows in lecture.sites.items() if name != site},
        val=lecture.val[catalog.sites[lecture.val] != site],
        test=own,
        test_sites=np.full(len(own), site),
    )


def _training(
    run: Run, images: Images, sites: Mapping[str, NDArray[np.int64]], folder: Path, warm: Weights
) -> arms.Training:
    return arms.Training(
        run=run, images=images, sites=sites, folder=folder, engine=inline, alone=inline,
        observer=lambda *_: (lambda _: None, lambda *_: None), resources={}, warm=warm,
    )  # fmt: skip


def _export(run: Run, path: Path, weights: Weights) -> None:
    channels, size = input_of(run)
    card = Card(
        encoder=run.encoder, channels=channels, size=size, preprocessing=PREPROCESSING, training={}
    )
    save_release(path, whole_encoder(run, weights), card, decoder_weights(run, weights))


@lru_cache(maxsize=4)
def _opened(source: str, knobs: str, image_px: int, folder: Path) -> Images:
    named = Named(name=source, knobs=json.loads(knobs))
    return open_images(named, folder=folder, image_px=image_px, cache_dir=default_cache_dir())


def _save(path: Path, arm: Arm) -> None:
    told = {"scores": dict(arm.scores), "best": arm.best, "rounds": arm.rounds,
            "seconds": arm.seconds}  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez_compressed(part, asked=arm.asked, told=json.dumps(told), **{
        f"answer {name}": values for name, values in arm.answers.items()
    })  # fmt: skip
    part.replace(path)


def _load(path: Path) -> Arm:
    with np.load(path, allow_pickle=False) as kept:
        told = json.loads(str(kept["told"]))
        start = "answer "
        answers = {n[len(start) :]: kept[n] for n in kept.files if n.startswith(start)}
        return Arm(
            answers=answers, asked=kept["asked"], best=told["best"], rounds=told["rounds"],
            scores={int(n): s for n, s in told["scores"].items()}, losses={},
            seconds=told["seconds"], bytes_up=0, bytes_down=0,
        )  # fmt: skip

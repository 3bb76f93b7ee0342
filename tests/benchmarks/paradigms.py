"""Four paradigms on one backbone and budget: what they learn, and why one is done earlier.

    python tests/benchmarks/paradigms.py [--data ../shared/data] [--epochs 50]
        [--px 48 --stem large] [--minutes 60]

After Dmitrenko et al. 2022 (https://arxiv.org/abs/2203.04107): weak supervision, BYOL, autoencoder,
and autoencoder with a joint classifier (here with the gradient that their code lost), each with and
without crops and with and without augmentation: 16 set-ups, all images in one place. A crop is a
random part of the area, enlarged; augmentation is all else that the modality's preset varies.
Without both, BYOL is shown one image twice and may collapse: its figures say so.

They report BYOL as up to 11 times faster. Their saved models are of epochs 5 to 14 for BYOL, which
alone was stopped early, and of epoch 50 for the rest. So here every set-up trains all epochs and is
examined twice: at the end, and where their rule would have stopped it (a loss that has risen twice,
or does not change in its fourth decimal). The time to stop is the product of seconds an epoch
("cheaper epochs") and epochs to stop ("earlier stopping"); both are printed beside weak
supervision's, the first in processor time where there is no GPU, so that a busy machine does not
count. The rate follows a cosine over all epochs (theirs was constant), so a model that is
stopped early has not seen its low rates.

Tasks: classification (linear probe, macro AUC), retrieval (vote of the 20 nearest) and clustering
(k-means, normalised mutual information) on test patients, beside raw pixels and the random
encoder. Phantom tissue of 64 px unless --data names the folder that holds HAM10000. A ResNet-18 of
width 16; a process for each set-up. Writes ``results/paradigms.json`` row by row and goes on with
what is missing; prints Markdown.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from learning import THREADS, commit, machine
from methods_sets import SETS
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score

from confrere_client.data.cache import default_cache_dir
from confrere_client.data.images import Images, open_images
from confrere_client.data.subset import Subset
from confrere_client.device import choose_device
from confrere_client.train import Place, Trainer
from confrere_common.augment.presets import PRESETS, Ranges
from confrere_common.config import Run
from confrere_common.loading import parse_run
from confrere_common.method import METHODS
from confrere_common.model import build_model, load_weights, shared_weights
from confrere_common.storage import atomic_write
from confrere_common.weights import Weights
from confrere_deploy.families import ALL_FAMILIES
from confrere_deploy.simulate import settled
from confrere_deploy.study.holdout import holdout
from confrere_deploy.study.measure import Exam, arm_figures

RESULTS = Path(__file__).parent / "results" / "paradigms.json"
PARADIGMS = ("weak", "byol", "autoencoder", "joint")
CROPS = ("area", "aspect")
PHANTOM = {
    "source": {"name": "phantom", "modality": "histology", "images": 1700, "patients": 480},
    "modality": "histology",
}
PIXELS = "raw pixels"
COLUMNS = (
    *("paradigm", "crops", "augmented", "AUC at the end", "AUC at the stop", "kNN", "NMI"),
    *(
        "s/epoch",
        "CPU s/epoch",
        "stop epochs",
        "s to stop",
        "cheaper epochs",
        "earlier stop",
        "peak MiB",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One of the sixteen, or a floor."""

    method: str
    crops: bool
    augmented: bool
    epochs: int
    seeds: tuple[int, ...]
    data: str
    px: int
    stem: str
    """Of the ResNet: 'large' looks at a sixteenth of the places, and is far cheaper."""


def run_of(setup: Setup) -> tuple[Run, Images]:
    """Return the run of a set-up, settled, and its images."""
    chosen: Mapping[str, Any] = SETS["derm"] if setup.data else PHANTOM
    method: dict[str, Any] = {"name": "byol" if setup.method == "floor" else setup.method}
    plain: dict[str, Any] = {
        "name": f"paradigms-{setup.method}",
        "data": {"source": chosen["source"], "image_px": setup.px},
        "encoder": {"name": "resnet", "width": 16, "stem": setup.stem},
        "method": method,
        "augment": {"modality": chosen["modality"], "changes": changes(setup, chosen["modality"])},
        "train": {"batch": 64, "epochs_per_round": 1, "lr": 1e-3},
        "federation": {"rounds": setup.epochs},
    }
    data = parse_run(plain, ALL_FAMILIES).data
    images = open_images(
        data.source, folder=Path(setup.data), image_px=setup.px, cache_dir=default_cache_dir()
    )
    if "label" in METHODS.member(method["name"]).wants:
        method["classes"] = len(images.catalog.classes)
    return settled(parse_run(plain, ALL_FAMILIES), images), images


def changes(setup: Setup, modality: str) -> dict[str, Any]:
    """Return what is taken from a modality's preset where crops or all else are left out."""
    none, preset = asdict(Ranges()), asdict(PRESETS[modality])
    return {
        name: none[name]
        for name in preset
        if name != "outside" and not (setup.crops if name in CROPS else setup.augmented)
    }


def stopped(losses: list[float]) -> bool:
    """Say whether the rule of the paper's code ends a training after these epochs."""
    pairs = list(pairwise(losses))
    rises = sum(after > before for before, after in pairs)
    return rises >= 2 or bool(pairs and round(pairs[-1][0], 4) == round(pairs[-1][1], 4))


@dataclass(frozen=True, kw_only=True)
class Course:
    """One training: what it cost, and its weights at the end and where it would have stopped."""

    end: Weights
    kept: Weights
    stop: int
    """Epoch after which their rule would have ended it; the last one if never."""

    losses: list[float]
    seconds: list[float]
    cpu: list[float]


def course(run: Run, images: Subset, start: Weights, seed: int) -> Course:
    """Train for all epochs of a run from *start*."""
    trainer = Trainer(run)
    losses, seconds, cpu = [], [], []
    weights, state, at_stop = start, {}, None
    for epoch in range(1, run.federation.rounds + 1):
        place = Place(site="all", round=epoch, seed=seed)
        began = time.process_time()
        trained = trainer.round(weights, state, images, place=place)
        cpu.append(time.process_time() - began)
        weights, state = trained.weights, trained.state
        losses.append(float(trained.metrics["loss"]))
        seconds.append(float(trained.metrics["seconds"]))
        if at_stop is None and stopped(losses):
            at_stop = epoch, weights
    stop, kept = at_stop or (run.federation.rounds, weights)
    return Course(end=weights, kept=kept, stop=stop, losses=losses, seconds=seconds, cpu=cpu)


def measured(setup: Setup) -> dict[str, Any]:
    """Train a set-up for all epochs and examine it at the end and where it would have stopped."""
    run, images = run_of(setup)
    held = holdout(images.catalog, run.data.test_share, run.data.val_share, run.data.seed)
    sites = np.full(len(held.test), "")
    exam = Exam(images=images, holdout=held, sites=sites)
    starts = [shared_weights(build_model(run, seed)) for seed in setup.seeds]
    if setup.method == "floor":
        return {
            "random": examined(exam, [embedded(run, exam, start) for start in starts]),
            PIXELS: examined(exam, [exam.raw()]),
        }
    mine = Subset(images, held.train)
    done = [course(run, mine, start, seed) for start, seed in zip(starts, setup.seeds, strict=True)]
    return {
        "end": examined(exam, [embedded(run, exam, one.end) for one in done]),
        "stop": examined(exam, [embedded(run, exam, one.kept) for one in done]),
        "losses": [one.losses for one in done],
        "epoch_s": float(np.median([one.seconds for one in done])),
        "epoch_cpu_s": float(np.median([one.cpu for one in done])),
        "stop_epochs": [one.stop for one in done],
        "stop_s": float(np.mean([sum(one.seconds[: one.stop]) for one in done])),
        "all_s": float(np.mean([sum(one.seconds) for one in done])),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def embedded(run: Run, exam: Exam, weights: Weights) -> NDArray[np.float32]:
    """Return every image's features."""
    model = build_model(run, 0)
    load_weights(model, weights)
    return exam.embed(model.encoder, choose_device(run.train.device))


def examined(exam: Exam, features: list[NDArray[np.float32]]) -> dict[str, Any]:
    """Return the figures of the three tasks, over the features that each seed gave."""
    found = arm_figures(exam, [exam.scores([one]) for one in features])
    test, catalog = exam.holdout.test, exam.images.catalog
    known = test[catalog.labels[test] >= 0]
    clusters = KMeans(len(catalog.classes), n_init=4, random_state=0)
    shared = [
        normalized_mutual_info_score(catalog.labels[known], clusters.fit_predict(one[known]))
        for one in features
    ]
    return {
        "linear_auc": asdict(found.linear.auc),
        "knn_accuracy": asdict(found.knn.accuracy),
        "clusters_nmi": float(np.mean(shared)),
        "rankme": found.rankme.mean,
    }


def in_process(setup: Setup) -> dict[str, Any]:
    """Return a row that a fresh process made."""
    command = [sys.executable, __file__, "--row", json.dumps(asdict(setup))]
    done = subprocess.run(
        command, env={**os.environ, **THREADS}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    stamp = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "commit": commit(), "machine": machine()}
    return {**asdict(setup), **json.loads(done.stdout.splitlines()[-1]), **stamp}


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return a table for each set, size and number of epochs."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["data"], row["px"], row["stem"], row["epochs"]), []).append(row)
    return "".join(
        f"### {data or 'phantom'}, {px} px, stem {stem}, at most {epochs} epochs\n\n"
        + "\n".join(table(found))
        + "\n\n"
        for (data, px, stem, epochs), found in groups.items()
    )


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of the table: quality at the end and at the stop, then what took the time."""
    yield f"| {' | '.join(COLUMNS)} |"
    yield "| --- " * len(COLUMNS) + "|"
    for row in rows:
        if row["method"] == "floor":
            for name in (PIXELS, "random"):
                figures = row[name]
                told = [name, "", "", auc(figures), "", *others(figures), *[""] * 7]
                yield "| " + " | ".join(told) + " |"
    trained = [row for row in rows if row["method"] != "floor"]
    for row in trained:
        beside = [
            other
            for other in trained
            if other["method"] == "weak"
            and all(other[key] == row[key] for key in ("crops", "augmented", "seeds", "epochs"))
        ]
        cost = [f"{row[key]:.2f}" for key in ("epoch_s", "epoch_cpu_s")]
        cost += [", ".join(map(str, row["stop_epochs"])), f"{row['stop_s']:.1f}"]
        ratios, pace = ["", ""], "epoch_s" if row["machine"]["gpu"] else "epoch_cpu_s"
        if beside:
            ratios = [
                f"{beside[0][pace] / row[pace]:.2f} x",
                f"{sum(beside[0]['stop_epochs']) / sum(row['stop_epochs']):.2f} x",
            ]
        end, stop = auc(row["end"]), auc(row["stop"])
        told = [row["method"], *("yes" if row[k] else "no" for k in ("crops", "augmented"))]
        told += [end, stop, *others(row["end"]), *cost, *ratios, f"{row['peak_rss_mib']:.0f}"]
        yield "| " + " | ".join(told) + " |"


def auc(figures: dict[str, Any]) -> str:
    """Return the linear probe's macro AUC with its interval."""
    found = figures["linear_auc"]
    return f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def others(figures: dict[str, Any]) -> tuple[str, str]:
    """Return the figures of retrieval and clustering."""
    return f"{figures['knn_accuracy']['mean']:.3f}", f"{figures['clusters_nmi']:.3f}"


def main() -> None:
    """Make the rows that are missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, help="folder of the data sets; left out: the phantom")
    parser.add_argument("--methods", nargs="+", default=list(PARADIGMS), choices=PARADIGMS)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--px", type=int, default=64, help="image size")
    parser.add_argument("--stem", default="auto", choices=("auto", "small", "large"))
    parser.add_argument("--minutes", type=float, default=1e9, help="start no row after so many")
    parser.add_argument("--plain", action="store_true", help="with crops and augmentation only")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.row:
        print(json.dumps(measured(Setup(**json.loads(asked.row)))))
        return
    data = str(asked.data.resolve()) if asked.data else ""
    common = {
        "epochs": asked.epochs,
        "data": data,
        "px": asked.px,
        "stem": asked.stem,
        "seeds": tuple(asked.seeds),
    }
    both = [True] if asked.plain else [True, False]
    wanted = [Setup(method="floor", crops=False, augmented=False, **common)]
    wanted += [
        Setup(method=method, crops=crops, augmented=augmented, **common)
        for crops in both
        for augmented in both
        for method in asked.methods
    ]
    rows = json.loads(asked.out.read_bytes())["rows"] if asked.out.exists() else []
    began = time.perf_counter()
    for setup in wanted:
        mine = {**asdict(setup), "data": Path(setup.data).name, "seeds": list(setup.seeds)}
        if any(mine.items() <= row.items() for row in rows):
            continue
        if time.perf_counter() - began > 60 * asked.minutes:
            print("no time is left for the rest")
            break
        rows.append({**in_process(setup), **mine})
        asked.out.parent.mkdir(exist_ok=True)
        atomic_write(asked.out, (json.dumps({"rows": rows}, indent=1) + "\n").encode())
        print(setup.method, "crops" * setup.crops, "augmented" * setup.augmented, flush=True)
    atomic_write(asked.out.with_suffix(".md"), markdown(rows).encode())
    print(markdown(rows))


if __name__ == "__main__":
    main()

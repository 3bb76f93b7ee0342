"""Every method on real images, alone and federated, beside floors: what it learns, what it costs.

    python tests/benchmarks/methods.py --data ../shared/data [--methods a b] [--sets derm histo]
        [--steps 400] [--seeds 0 1] [--minutes 60]

A row is one method (or floor) on one set in one arm, over all seeds, in a process of its own, by
the code that ``confrere simulate`` runs. Rows are written as they finish; a second call goes on
with those that are missing, so it may be stopped at any time (``--again`` makes all anew).

Arms of a method: ``centralised`` (all images in one place), ``federated`` over sites, with as many
steps in all, and, where ``--arms`` asks for it, ``local``: each site alone with its share of the
steps, the mean over the sites' encoders. Floors, one for each encoder: ``raw`` pixels and the
``random`` encoder.
``derm`` has three real sites; ``histo``, ``pneumonia`` and ``adrenal`` name none, so theirs are
drawn (Dirichlet, 0.5). The 3-D set is for the methods and encoders that take volumes; one that does
not is told of with its reason. Methods learn from what the patients of the test do not show them;
those that want labels are marked with *, and get those of the training patients.

Without a GPU: images of 64 px (volumes of 24), a ResNet-18 of width 16 (0.7 M parameters), a ViT of
96 features in 4 blocks: no figure says what a full-size encoder reaches. Steps are few too: read it
as what a laptop gets in minutes. CPU time is of whole rounds: targets, views, steps, the check of
the representation's health at each round's end, checkpoints. Prints Markdown; writes
``results/methods.json`` and ``.md``.

``--set`` makes rows of a changed run beside the plain ones, such as tensor-train layers:
``--set encoder.tensor_train.rank=8 --set federation.rule=tensor_train``; ``--share 0.1`` makes rows
that learned from fewer patients, with as many steps.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from learning import THREADS, commit, machine, told
from methods_sets import (
    ENCODER_KNOBS,
    LARGE,
    METHOD_KNOBS,
    RATES,
    SETS,
    TRAIN,
    VOLUME_KNOBS,
    encoder_for,
    rounds_of,
)
from methods_table import markdown
from numpy.typing import NDArray

from confrere_client.data.cache import default_cache_dir
from confrere_client.data.images import Images, open_images
from confrere_common.config import Run
from confrere_common.loading import override, parse_run
from confrere_common.method import METHODS
from confrere_common.model import build_model
from confrere_common.storage import atomic_write
from confrere_common.weights import Weights
from confrere_deploy.engines.inline import inline
from confrere_deploy.families import ALL_FAMILIES
from confrere_deploy.report import schema
from confrere_deploy.simulate import Studio, settled
from confrere_deploy.split import sites_of_test, spread
from confrere_deploy.study import arms
from confrere_deploy.study.holdout import holdout
from confrere_deploy.study.measure import Exam, arm_figures
from confrere_server.store import ServerState

RESULTS = Path(__file__).parent / "results" / "methods.json"
FLOORS = ("raw", "random")
TRAINED = ("centralised", "local", "federated")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a row is of; equal ones are the same row."""

    data: str
    method: str
    """'floor' for raw pixels and the random encoder."""

    encoder: str
    arm: str
    steps: int
    """Of the optimizers of all sites together."""

    seeds: tuple[int, ...]
    changes: tuple[str, ...] = ()
    """As ``a.b=c``, of the run."""

    share: float = 1.0
    """Of each site's patients who teach; the probe has the labels of all."""

    large: bool = LARGE

    @property
    def key(self) -> str:
        """Return what tells rows apart."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def read(row: Mapping[str, Any]) -> "Asked":
        """Return what a row, as JSON holds it, is of."""
        known = {name: row[name] for name in Asked.__dataclass_fields__ if name in row}
        lists = {name: tuple(known.get(name, ())) for name in ("seeds", "changes")}
        return Asked(**{**known, **lists})


# ---------------------------------------------------------------------------- one row


def run_of(asked: Asked, folder: Path) -> tuple[Run, Images]:
    """Return the run of a row, settled, and its images."""
    chosen = SETS[asked.data]
    name = "simclr" if asked.method == "floor" else asked.method
    method: dict[str, Any] = {"name": name, **METHOD_KNOBS.get(name, {})}
    plain: dict[str, Any] = {
        "name": f"{asked.data}-{name}",
        "seeds": list(asked.seeds),
        "data": {
            "source": chosen["source"],
            "image_px": chosen.get("image_px", 64),
            "split": chosen["split"],
        },
        "encoder": {
            "name": asked.encoder,
            **ENCODER_KNOBS.get(asked.encoder, {}),
            **(VOLUME_KNOBS.get(asked.encoder, {}) if chosen["source"].get("dims") == 3 else {}),
        },
        "method": method,
        "augment": {"modality": chosen["modality"]},
        "train": {"batch": TRAIN[asked.data], "steps_per_round": 1, "lr": RATES[asked.encoder]},
        "federation": {"rounds": rounds_of(asked.data)},
    }
    for change in asked.changes:
        plain = override(plain, change)
    data = parse_run(plain, ALL_FAMILIES).data
    images = open_images(
        data.source, folder=folder, image_px=data.image_px, cache_dir=default_cache_dir()
    )
    if "label" in METHODS.member(method["name"]).wants:
        plain = override(plain, f"method.classes={len(images.catalog.classes)}")
    held = holdout(images.catalog, data.test_share, data.val_share, data.seed)
    sites = len(spread(data, images.catalog, held.train))
    each = max(1, round(asked.steps / rounds_of(asked.data) / sites))
    plain = override(plain, f"train.steps_per_round={each}")
    return settled(parse_run(plain, ALL_FAMILIES), images), images


def measured(
    asked: Asked, folder: Path, place: Path, warm: Weights = MappingProxyType({})
) -> dict[str, Any]:
    """Train and examine what a row is of; *warm* are weights that do not start fresh."""
    run, images = run_of(asked, folder)
    held = holdout(images.catalog, run.data.test_share, run.data.val_share, run.data.seed)
    sites = spread(run.data, images.catalog, held.train)
    taught = fewer(sites, images.catalog.patients, asked.share)
    exam = Exam(
        images=images,
        holdout=held,
        sites=sites_of_test(images.catalog, sites, held.test, run.data.seed),
    )
    training = arms.Training(
        run=run,
        images=images,
        sites=taught,
        folder=place,
        engine=inline,
        alone=inline,
        observer=lambda *_: (lambda _: None, lambda *_: None),
        resources={},
        warm=warm,
    )
    scores, states, cpu_s, wall_s = [], [], 0.0, 0.0
    for seed in run.seeds:
        began = time.process_time(), time.perf_counter()
        if asked.arm in TRAINED:
            made = getattr(arms, asked.arm)(training, seed)
            states += [made] if isinstance(made, ServerState) else made
        cpu_s += time.process_time() - began[0]
        wall_s += time.perf_counter() - began[1]
        # It takes the training up where it ended.
        scores.append(Studio(training=training, exam=exam, seed=seed).scores(asked.arm))
    found = arm_figures(exam, scores)
    return {
        "linear_auc": plain(found.linear.auc),
        "linear_accuracy": plain(found.linear.accuracy),
        "knn_accuracy": plain(found.knn.accuracy),
        "rankme": plain(found.rankme),
        "features": build_model(run, 0).encoder.width,
        "wall_s": wall_s,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "sites": len(sites),
        "steps_per_round": run.train.steps_per_round,
        "test_images": len(held.test),
        "train_images": sum(map(len, taught.values())),
        **trained_figures(states, cpu_s, len(run.seeds)),
    }


def fewer(
    sites: Mapping[str, NDArray[np.int64]], patients: NDArray[Any], share: float
) -> dict[str, NDArray[np.int64]]:
    """Return the images of a share of each site's patients; a smaller share is part of a larger."""
    found = {}
    for site, rows in sites.items():
        drawn = np.random.default_rng(0).permutation(np.unique(patients[rows]))
        found[site] = rows[np.isin(patients[rows], drawn[: max(1, round(share * len(drawn)))])]
    return found


def trained_figures(states: list[ServerState], cpu_s: float, seeds: int) -> dict[str, Any]:
    """Return what the rounds tell: costs an image and a round, the loss, how alike features are."""
    records = [record for state in states for record in state.records]
    seen = sum(site.metrics.get("seen", 0) for record in records for site in record.sites)
    if not seen:
        return {}
    last = [site.metrics for state in states for site in state.records[-1].sites]
    found = {
        "cpu_s_per_image": cpu_s / seen,
        "images_seen": seen / seeds,
        "bytes_per_round": sum(r.bytes_up + r.bytes_down for r in records) / len(records),
        "first_loss": sum(state.records[0].loss or 0 for state in states) / len(states),
        "last_loss": sum(state.records[-1].loss or 0 for state in states) / len(states),
        "feature_std": sum(metrics["feature_std"] for metrics in last) / len(last),
    }
    if torch.cuda.is_available():
        found["peak_gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return found


def plain(figure: schema.Figure) -> dict[str, float]:
    """Return a figure as JSON holds it."""
    return asdict(figure)


# ---------------------------------------------------------------------------- all rows


def wanted(
    methods: list[str],
    sets: list[str],
    steps: int,
    seeds: tuple[int, ...],
    changes: tuple[str, ...],
    share: float = 1.0,
    trained: Sequence[str] = ("centralised", "federated"),
) -> list[Asked]:
    """Return the rows to make: floors of a set first, then its methods, changed or not."""
    other = tuple(change for change in changes if change.startswith(("encoder.", "data.")))
    rows = []
    for data in sets:
        used = {name: encoder_for(name, data) for name in methods}
        common = {"data": data, "steps": steps, "seeds": seeds}
        first = sorted(set(used.values()))
        rows += [Asked(method="floor", encoder=first[0], arm="raw", **common)]
        rows += [
            Asked(method="floor", encoder=kind, arm="random", changes=other, **common)
            for kind in first
        ]
        rows += [
            Asked(method=name, encoder=kind, arm=arm, changes=changes, share=share, **common)
            for name, kind in used.items()
            for arm in trained
        ]
    return rows


def in_process(asked: Asked, data: Path) -> dict[str, Any]:
    """Return a row that a fresh process made, or what it stumbled on."""
    command = [sys.executable, __file__, "--data", str(data), "--row", json.dumps(asdict(asked))]
    done = subprocess.run(
        command, env={**os.environ, **THREADS}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it ended without a word"]
        return {**asdict(asked), "fault": said[-1][:300]}
    return {**asdict(asked), **json.loads(done.stdout.splitlines()[-1])}


class Table:
    """The rows that there are, on disk as soon as they are made."""

    def __init__(self, path: Path, *, again: bool) -> None:
        self.path = path
        self._lock = Lock()
        kept = [] if again or not path.exists() else json.loads(path.read_bytes())["rows"]
        self.rows: dict[str, dict[str, Any]] = {Asked.read(row).key: row for row in kept}

    def lacks(self, asked: Asked) -> bool:
        """Say whether a row is still to be made; one that failed is tried again."""
        return "fault" in self.rows.get(asked.key, {"fault": ""})

    def put(self, asked: Asked, row: dict[str, Any]) -> None:
        """Keep a row."""
        with self._lock:
            self.rows[asked.key] = {
                **row,
                "date": f"{datetime.now(UTC):%Y-%m-%d}",
                "commit": commit(),
                "machine": machine(),
            }
            self.path.parent.mkdir(exist_ok=True)
            text = json.dumps({"rows": list(self.rows.values())}, indent=1) + "\n"
            atomic_write(self.path, text.encode())
            atomic_write(self.path.with_suffix(".md"), markdown(self.rows.values()).encode())


def main() -> None:
    """Make the rows that are missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--methods", nargs="+", default=list(METHODS.names()))
    parser.add_argument("--sets", nargs="+", default=["derm", "histo", "adrenal"], choices=SETS)
    parser.add_argument("--steps", type=int, default=300, help="of all sites together")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="a.b=c")
    parser.add_argument("--share", type=float, default=1.0, help="of a site's patients who teach")
    parser.add_argument("--arms", nargs="+", choices=TRAINED, default=["centralised", "federated"])
    parser.add_argument("--minutes", type=float, default=1e9, help="start no row after so many")
    parser.add_argument("--jobs", type=int, default=1 if LARGE else 2, help="rows at once")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--again", action="store_true", help="make all rows anew")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.row:
        asked = Asked.read(json.loads(given.row))
        with tempfile.TemporaryDirectory(prefix="methods-") as place:
            print(json.dumps(measured(asked, given.data.resolve(), Path(place))))
        return
    results, began = Table(given.out, again=given.again), time.perf_counter()
    rows = wanted(
        given.methods,
        given.sets,
        given.steps,
        tuple(given.seeds),
        tuple(given.changes),
        given.share,
        given.arms,
    )

    def make(asked: Asked) -> None:
        if time.perf_counter() - began > 60 * given.minutes:
            return
        row = in_process(asked, given.data.resolve())
        results.put(asked, row)
        name = f"{asked.data} {asked.method} {asked.arm}"
        print(name, row.get("fault") or told(row["linear_auc"]), flush=True)

    with ThreadPoolExecutor(given.jobs) as pool:
        list(pool.map(make, filter(results.lacks, rows)))
    left = sum(map(results.lacks, rows))
    print(f"\n{markdown(results.rows.values())}\n{left} of {len(rows)} rows are missing.")


if __name__ == "__main__":
    main()

"""Mixing fedsigreg against plain lejepa where sites differ much: what a pool of all sites changes.

    nice python tests/benchmarks/fedsigreg.py --data ../shared/data [--steps 200] [--seeds 0 1 2]

Dermatoscopy (HAM10000) at 48 px, a ResNet-18 of width 16, two views, batches of 32: small, so that
it takes about ten minutes of one core, and far too small to say what a full training shows. Sites
are drawn (Dirichlet, 0.1 over classes: strong skew) or are the three real ones. Arms: lejepa,
lejepa with fedsigreg, lejepa on all images in one place; floors: raw pixels, the untrained encoder.

Beside linear AUC stands how evenly features lie, log E exp(-2 |a - b|^2) of unit features, lower is
more even: within a site (mean over sites), between sites (pairs of two sites), and the gap, between
less within: below 0 where images of different sites lie farther apart than those of one site. Of
the encoder's features, and of the projections that the test of normality is about. Features are of
the sites' own training images, at most 200 a site. Prints Markdown; writes
``results/fedsigreg.json`` row by row, and ``.md``; a second call makes the rows that are missing.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from learning import commit, machine, told
from methods import Asked, plain, run_of
from numpy.typing import NDArray

from confrere_client.measure.health import uniformity
from confrere_common.config import Run
from confrere_common.model import build_model, load_weights, shared_weights
from confrere_common.storage import atomic_write
from confrere_common.weights import Weights
from confrere_deploy.engines.inline import inline
from confrere_deploy.split import sites_of_test, spread
from confrere_deploy.study import arms
from confrere_deploy.study.holdout import holdout
from confrere_deploy.study.measure import Exam, Scores, arm_figures

RESULTS = Path(__file__).parent / "results" / "fedsigreg.json"
SPREADS: Mapping[str, str] = {
    "dirichlet 0.1": "{name: dirichlet, sites: 4, alpha: 0.1}",
    "natural": "natural",
}
ARMS: Mapping[str, tuple[str, ...]] = {
    "raw": (),
    "random": (),
    "lejepa": (),
    "fedsigreg": ("federation.mixing=[fedsigreg]",),
    "centralised": (),
}
SMALL = (
    "data.image_px=48",
    "encoder.stem=large",
    "method.local_views=0",
    "method.normality=0.1",
    "train.batch=32",
)
"""With the default weight of the test, 0.02, projections all but vanish in so few steps."""

IMAGES_AT_MOST = 200
Features = NDArray[np.float32]


class Spread:
    """One spread of images over sites: trains its arms and measures them."""

    def __init__(self, name: str, given: argparse.Namespace, place: Path) -> None:
        self.given, self.place = given, place
        self.changes = (
            f"data.split={SPREADS[name]}",
            f"federation.rounds={given.rounds}",
            *SMALL,
            *given.changes,
        )
        run, self.images = self.run_with()
        catalog = self.images.catalog
        held = holdout(catalog, run.data.test_share, run.data.val_share, run.data.seed)
        self.sites = spread(run.data, catalog, held.train)
        counted = sites_of_test(catalog, self.sites, held.test, run.data.seed)
        self.exam = Exam(images=self.images, holdout=held, sites=counted)

    def run_with(self, changes: tuple[str, ...] = ()) -> tuple[Run, Any]:
        """Return the run, changed, and its images."""
        asked = Asked(
            data="derm",
            method="lejepa",
            encoder="resnet",
            arm="federated",
            steps=self.given.steps * 5 // self.given.rounds,  # it divides by 5 rounds
            seeds=tuple(self.given.seeds),
            changes=(*self.changes, *changes),
        )
        return run_of(asked, self.given.data.resolve())

    def weights(self, run: Run, arm: str, seed: int) -> Weights:
        """Return an arm's weights at the end."""
        if arm == "random":
            return shared_weights(build_model(run, seed))
        training = arms.Training(
            run=run,
            images=self.images,
            sites=self.sites,
            folder=self.place / arm,
            engine=inline,
            alone=inline,
            observer=lambda *_: (lambda _: None, lambda *_: None),
            resources={},
        )
        train = arms.centralised if arm == "centralised" else arms.federated
        return train(training, seed).weights

    def measured(self, arm: str, seed: int) -> tuple[Scores, dict[str, float]]:
        """Return what probes score, and how evenly the features of sites lie."""
        if arm == "raw":
            return self.exam.scores([self.exam.raw()]), {}
        run, _ = self.run_with(ARMS[arm])
        model = build_model(run, seed)
        load_weights(model, self.weights(run, arm, seed))
        found = self.exam.embed(model.encoder, torch.device("cpu"))
        with torch.inference_mode():
            projected = model.projector(torch.from_numpy(found)).numpy()
        evenness = {
            f"{what} {key}": value
            for what, every in (("features", found), ("projections", projected))
            for key, value in self.evenness(every).items()
        }
        return self.exam.scores([found]), evenness

    def evenness(self, every: Features) -> dict[str, float]:
        """Return uniformity within sites, between sites, and the gap."""
        drawn = np.random.default_rng(0)
        parts = [
            every[drawn.permutation(rows)[:IMAGES_AT_MOST]]
            for rows in self.sites.values()
            if len(rows) > 1
        ]
        within = float(np.mean([uniformity(part) for part in parts]))
        between = float(np.mean([across(a, b) for a, b in combinations(parts, 2)]))
        return {"within": within, "between": between, "gap": between - within}


def across(one: Features, two: Features) -> float:
    """Return log E exp(-2 |a - b|^2) over pairs of unit features, one of each."""
    units = [part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
             for part in (one.astype(np.float64), two.astype(np.float64))]  # fmt: skip
    return float(np.log(np.exp(-2 * (2 - 2 * units[0] @ units[1].T)).mean()))


def rows(
    given: argparse.Namespace, place: Path, done: set[tuple[str, str]]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each spread and arm that is not done, over all seeds."""
    for number, name in enumerate(given.spreads):
        missing = [arm for arm in given.arms if (name, arm) not in done]
        if not missing:
            continue
        one = Spread(name, given, place / str(number))
        for arm in missing:
            began = time.process_time()
            found = [one.measured(arm, seed) for seed in given.seeds]
            figures = arm_figures(one.exam, [scores for scores, _ in found])
            yield {
                "spread": name,
                "arm": arm,
                "sites": [len(images) for images in one.sites.values()],
                "linear_auc": plain(figures.linear.auc),
                "rankme": plain(figures.rankme),
                "evenness": {key: [each[key] for _, each in found] for key in found[0][1]},
                "cpu_s": time.process_time() - began,
                "load": os.getloadavg(),
                "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
            }
            print(f"{name}, {arm}: {told(plain(figures.linear.auc))}", flush=True)


def markdown(table: list[dict[str, Any]]) -> str:
    """Return the table; of evenness the mean over seeds and the seeds' extremes."""
    keys = ("features within", "features between", "features gap", "projections gap")
    lines = ["| spread | arm | linear AUC | RankMe | " + " | ".join(keys) + " |"]
    lines.append("| --- " * (4 + len(keys)) + "|")
    for row in table:
        cells = [row["spread"], row["arm"], told(row["linear_auc"]), f"{row['rankme']['mean']:.1f}"]
        lines.append(
            "| " + " | ".join([*cells, *(seeds(row["evenness"].get(k)) for k in keys)]) + " |"
        )
    return "\n".join(lines)


def seeds(found: list[float] | None) -> str:
    """Return mean and extremes as text."""
    return f"{np.mean(found):.3f} ({min(found):.3f} to {max(found):.3f})" if found else ""


def main() -> None:
    """Train, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--steps", type=int, default=200, help="of all sites together")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--spreads", nargs="+", default=list(SPREADS), choices=SPREADS)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="a.b=c")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {
        "commit": commit(),
        "machine": machine(),
        "steps": given.steps,
        "rounds": given.rounds,
        "seeds": given.seeds,
        "changes": [*SMALL, *given.changes],
        "rows": [],
    }
    if given.out.exists():  # a second call of the same goes on with what is missing
        kept = json.loads(given.out.read_bytes())
        if all(kept[key] == found[key] for key in ("steps", "rounds", "seeds", "changes")):
            found["rows"] = kept["rows"]
    done = {(row["spread"], row["arm"]) for row in found["rows"]}
    with tempfile.TemporaryDirectory(prefix="fedsigreg-") as place:
        for row in rows(given, Path(place), done):
            found["rows"].append(row)
            atomic_write(given.out, (json.dumps(found, indent=1) + "\n").encode())
    told = markdown(found["rows"]) + "\n"
    atomic_write(given.out.with_suffix(".md"), told.encode())
    print(told)


if __name__ == "__main__":
    main()

"""Rules and mixings under three spreads of images over sites: what each makes of a federation.

    python tests/benchmarks/rules.py --data ../shared/data [--set derm] [--methods byol simmim]
        [--spreads iid dirichlet natural] [--only fedema ldawa] [--steps 400] [--rounds 10]
        [--px 48 --stem large] [--seeds 0 1] [--minutes 60]

A row is one rule, server step, mixing or schedule, with one method under one spread, over all
seeds; ``mean`` alone is plain averaging, to which the others are held. Rows are made as those of
``methods.py``, each in a process of its own, and written as they finish: a second call goes on with
those that are missing. Steps are those of all sites together, so a spread over more sites gives
each fewer. The encoder is a small ResNet-18 and training is short: differences smaller than the
intervals say nothing, and none says what a long training of a large encoder would show.

"above mean": by how much the AUC lies above plain averaging's; its interval takes the test
patients for others, which they are not, so that it is too wide (``methods_table``).

What a method lacks a part for (a predictor, a projector) has no row. Under ``fedbn`` the encoder
that is measured has the initial gains of its normalisations: what a release would hold.
Prints Markdown; writes ``results/rules.json`` and ``.md``.
"""

import argparse
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from learning import commit, machine, told
from methods import Asked, Table, in_process
from methods_sets import LARGE, SETS, encoder_for, rounds_of
from methods_table import above

from confrere_common.errors import ConfigError
from confrere_common.loading import override, parse_run
from confrere_common.mixing import MIXINGS
from confrere_common.model import outline
from confrere_common.storage import atomic_write
from confrere_deploy.families import ALL_FAMILIES
from confrere_server.joining import must_join

RESULTS = Path(__file__).parent / "results" / "rules.json"
SPREADS: Mapping[str, str] = {
    "iid": "{name: iid, sites: 4}",
    "dirichlet": "{name: dirichlet, sites: 4, alpha: 0.1}",
    "natural": "natural",
}
STAGES = "[[encoder.stem*, encoder.stages.0*], [encoder.stages.1*, encoder.stages.2*]]"


def variants() -> dict[str, tuple[str, ...]]:
    """Return what is compared: name -> changes of the run; mixings are found, not listed."""
    found: dict[str, tuple[str, ...]] = {"mean": ()}
    for rule in ("median", "trimmed_mean", "ldawa", "ldawa_norm", "fedu2"):
        found[f"rule {rule}"] = (f"federation.rule={rule}",)
    for step in ("momentum", "adam", "yogi"):
        found[f"step {step}"] = (f"federation.step={step}",)
    for name in MIXINGS.names():
        rule = MIXINGS.member(name).rule or "mean"
        found[f"mixing {name}"] = (f"federation.mixing=[{name}]", f"federation.rule={rule}")
    both = {"fedu2": "fedu2", "calibre": "calibre"}
    for name, rule in both.items():
        found[f"mixing {name}, rule {rule}"] = (
            f"federation.mixing=[{name}]",
            f"federation.rule={rule}",
        )
    found["personal projector"] = ("federation.personal=['projector.*']",)
    found["layerwise"] = (f"train.layerwise={{stages: {STAGES}}}",)
    return found


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one row compares."""

    variant: str
    asked: Asked
    spread: str = ""
    """Empty for a floor."""


def wanted(given: argparse.Namespace) -> list[Row]:
    """Return the rows to make: floors, then plain averaging of each method and spread first."""
    encoders = sorted({encoder_for(method) for method in given.methods})
    rows = [floor(given, encoders[0], "raw")]
    rows += [floor(given, encoder, "random") for encoder in encoders]
    for spread in given.spreads:
        for method in given.methods:
            for name, changes in variants().items():
                if given.only and name != "mean" and not set(given.only) & set(name.split()):
                    continue
                if not fits(method, changes):
                    continue
                every = (
                    f"data.split={SPREADS[spread]}",
                    f"federation.rounds={given.rounds}",
                    *seen(given, encoder_for(method)),
                    *changes,
                )
                asked = Asked(
                    data=given.set,
                    method=method,
                    encoder=encoder_for(method),
                    arm="federated",
                    # methods.py divides by the rounds that it has for the set
                    steps=given.steps * rounds_of(given.set) // given.rounds,
                    seeds=tuple(given.seeds),
                    changes=every,
                )
                rows.append(Row(variant=name, spread=spread, asked=asked))
    return rows


def floor(given: argparse.Namespace, encoder: str, arm: str) -> Row:
    """Return the row of raw pixels or of an encoder that was not trained."""
    asked = Asked(
        data=given.set,
        method="floor",
        encoder=encoder,
        arm=arm,
        steps=0,
        seeds=tuple(given.seeds),
        changes=seen(given, encoder),
    )
    return Row(variant="raw pixels" if arm == "raw" else f"untrained {encoder}", asked=asked)


def seen(given: argparse.Namespace, encoder: str) -> tuple[str, ...]:
    """Return what of a run says how images reach the encoder."""
    stem = (f"encoder.stem={given.stem}",) if given.stem and encoder == "resnet" else ()
    return (f"data.image_px={given.px}", *stem)


@cache
def fits(method: str, changes: tuple[str, ...]) -> bool:
    """Say whether there can be such a run: a method may lack what a mixing works on."""
    plain: dict[str, Any] = {
        "name": "fits",
        "data": {"source": "phantom", "channels": 1, "dims": 2, "image_px": 64},
        "encoder": encoder_for(method),
        "method": method,
    }
    for change in changes:
        plain = override(plain, change)
    try:
        run = parse_run(plain, ALL_FAMILIES)
        must_join(run)
        outline(run)
    except ConfigError:
        return False
    return True


class Rules(Table):
    """The rows that there are, each with its variant and spread."""

    def add(self, row: Row, found: Mapping[str, Any]) -> None:
        """Keep a row on disk."""
        with self._lock:
            self.rows[row.asked.key] = {
                **found,
                "variant": row.variant,
                "spread": row.spread,
                "date": f"{datetime.now(UTC):%Y-%m-%d}",
                "commit": commit(),
                "machine": machine(),
            }
            self.path.parent.mkdir(exist_ok=True)
            text = json.dumps({"rows": list(self.rows.values())}, indent=1) + "\n"
            atomic_write(self.path, text.encode())
            atomic_write(self.path.with_suffix(".md"), markdown(self.rows.values()).encode())


def markdown(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a table for each set, method and spread, the best linear AUC first."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["data"], row["method"], row["spread"], row["steps"]), []).append(row)
    return "\n".join(line for group in sorted(groups) for line in table(group, groups[group]))


def table(group: tuple[Any, ...], rows: list[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of one table."""
    data, method, spread, _ = group
    good = [row for row in rows if "fault" not in row]
    if not spread:
        yield f"### {data}, floors\n\n| floor | linear AUC | kNN accuracy |\n| --- | --- | --- |"
        yield from (
            f"| {row['variant']} | {told(row['linear_auc'])} | {told(row['knn_accuracy'])} |"
            for row in good
        )
        yield ""
        return
    yield f"### {data}, {method}, {spread}\n"
    if good:
        one = good[0]
        yield (
            f"{one['train_images']} images at {one['sites']} sites, {one['steps_per_round']} steps "
            f"a round at each, {one['images_seen']:.0f} images seen in all; {len(one['seeds'])} "
            "seed(s), intervals of 95 %.\n"
        )
    yield (
        "| variant | linear AUC | above mean | kNN accuracy | RankMe | loss | CPU ms/image "
        "| MB/round |"
    )
    yield "| --- " * 8 + "|"
    mean = next((row for row in good if row["variant"] == "mean"), None)
    for row in sorted(good, key=lambda row: -row["linear_auc"]["mean"]):
        yield "| " + " | ".join(cells(row, mean)) + " |"
    for row in rows:
        if "fault" in row:
            yield f"\n{row['variant']}: not to be had: {row['fault']}"
    yield ""


def cells(row: Mapping[str, Any], mean: Mapping[str, Any] | None) -> list[str]:
    """Return the cells of one row beside plain averaging."""
    return [
        row["variant"],
        told(row["linear_auc"]),
        "" if row is mean else above(row, mean),
        told(row["knn_accuracy"]),
        f"{row['rankme']['mean']:.1f}",
        f"{row['first_loss']:.3g} to {row['last_loss']:.3g}",
        f"{1000 * row['cpu_s_per_image']:.1f}",
        f"{row['bytes_per_round'] / 1e6:.1f}",
    ]


def main() -> None:
    """Make the rows that are missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--set", default="derm", choices=SETS)
    parser.add_argument("--methods", nargs="+", default=["byol", "simmim"])
    parser.add_argument("--spreads", nargs="+", default=list(SPREADS), choices=SPREADS)
    parser.add_argument("--only", nargs="+", help="words of the variants to make, beside the mean")
    parser.add_argument("--steps", type=int, default=400, help="of all sites together")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--px", type=int, default=64, help="image size")
    parser.add_argument("--stem", help="of a ResNet: 'large' takes a sixteenth of the time")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--minutes", type=float, default=1e9, help="start no row after so many")
    parser.add_argument("--jobs", type=int, default=1 if LARGE else 2, help="rows at once")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--again", action="store_true", help="make all rows anew")
    given = parser.parse_args()
    results, began, rows = Rules(given.out, again=given.again), time.perf_counter(), wanted(given)

    def make(row: Row) -> None:
        if time.perf_counter() - began > 60 * given.minutes:
            return
        found = in_process(row.asked, given.data.resolve())
        results.add(row, found)
        name = f"{row.spread} {row.asked.method} {row.variant}:"
        print(name, found.get("fault") or told(found["linear_auc"]), flush=True)

    missing = [row for row in rows if results.lacks(row.asked)]
    with ThreadPoolExecutor(given.jobs) as pool:
        list(pool.map(make, missing))
    left = sum(results.lacks(row.asked) for row in rows)
    print(f"\n{markdown(results.rows.values())}\n{left} of {len(rows)} rows are missing.")


if __name__ == "__main__":
    main()

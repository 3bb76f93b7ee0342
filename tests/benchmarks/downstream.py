"""What pre-training is worth: fine-tuned tasks on real images, beside scratch and floors.

    python tests/benchmarks/downstream.py label_efficiency --data ../shared/data [--seeds 0 1 2]
        [--minutes 60] [--only histo 10%] [--place DIR] [--show]

Tables: label_efficiency, segmentation, detection, retrieval, anomaly, robustness; each module of
that name says what its rows are. A row is one way of fine-tuning over all seeds; each seed
pre-trains, fine-tunes and draws anew, test patients stay. Work goes by the product's own functions
(see ``downstream_work``), one process, one thread. What is done is kept in ``--place``: a killed
script goes on, and the table is written after every row. ``--show`` prints what there is.

Intervals are of 95 % over test patients and seeds; differences are paired, on the same patients.
Small images, a ResNet-18 of width 16 and few rounds: no figure says what full encoders reach.
Prints Markdown; writes ``results/<table>.json`` and ``.md``.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import timing
from downstream_work import Desk, Way

from confrere_client.data.cache import default_cache_dir
from confrere_client.evaluation.paired import Weighed, weighed_difference, weighed_figure
from confrere_client.finetune.judge import judge_of
from confrere_common.storage import atomic_write
from confrere_deploy.study.finetuning import Arm, Lecture
from confrere_deploy.study.tuned_report import at, exam_of

TABLES = (
    "label_efficiency", "segmentation", "detection", "retrieval", "anomaly", "robustness",
)  # fmt: skip
Done = Mapping[str, Sequence[Arm]]


def made(
    module: ModuleType, desk: Desk, seeds: Sequence[int], only: set[str], until: float
) -> None:
    """Make the units that are missing, and write the table after each."""
    more = getattr(module, "more", None)
    for way in module.ways(desk):
        if only and not only <= {str(fact) for fact in way.facts.values()}:
            continue
        for seed in seeds:
            if desk.has(way, seed):
                continue
            if time.monotonic() > until:
                return
            began = time.monotonic()
            arm = desk.unit(way, seed, more)
            taken = f"{arm.seconds:.0f} s of processor, {time.monotonic() - began:.0f} s"
            best = f"best round {arm.best} of {arm.rounds}"
            print(
                " | ".join(map(str, way.facts.values())),
                f"| seed {seed}: {taken}; {best}",
                flush=True,
            )
        kept(module, desk, seeds, only=way)


def kept(
    module: ModuleType, desk: Desk, seeds: Sequence[int], only: Way | None = None
) -> list[dict[str, Any]]:
    """Bring the table up to what is done: the rows of *only*'s group anew, or all."""
    path = timing.RESULTS / f"{module.__name__}.json"
    before = json.loads(path.read_bytes())["rows"] if path.exists() else []
    old = {row["key"]: row for row in before}
    groups: dict[str, list[Way]] = {}
    for way in module.ways(desk):
        groups.setdefault(_group(way), []).append(way)
    rows = []
    for name, ways in groups.items():
        if only is not None and name != _group(only):
            rows += [old[way.key(0)] for way in ways if way.key(0) in old]
        else:
            rows += _rows(module, desk, ways, seeds, old)
    stamp = timing.facts()
    text = json.dumps({**stamp, "seeds": list(seeds), "rows": rows}, indent=1) + "\n"
    atomic_write(path, text.encode())
    atomic_write(path.with_suffix(".md"), markdown(module, rows).encode())
    return rows


def _group(way: Way) -> str:
    """Return what rows that are compared have in common."""
    own = ("start", "taken over")
    return json.dumps({name: fact for name, fact in way.facts.items() if name not in own})


def _rows(
    module: ModuleType,
    desk: Desk,
    ways: Sequence[Way],
    seeds: Sequence[int],
    old: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one group, each beside the others."""
    done = {
        way: units
        for way in ways
        if (units := {seed: desk.unit(way, seed) for seed in seeds if desk.has(way, seed)})
    }
    lectures = {way: desk.lecture(way, min(units)) for way, units in done.items()}
    rows = {
        way: lectures[way].test[np.isin(lectures[way].test, units[min(units)].asked)]
        for way, units in done.items()
    }
    each = {
        way: {
            seed: _figures(module, lectures[way], at(arm, rows[way]), rows[way])
            for seed, arm in units.items()
        }
        for way, units in done.items()
    }
    for way, units in done.items():
        lecture, learned = lectures[way], lectures[way].learned
        patients = lecture.images.catalog.patients
        found = list(each[way].values())
        figures = {
            name: weighed_figure([one[name] for one in found], patients[rows[way]])
            for name in module.MEASURES
            if name in found[0]
        }
        head = {seed: one[next(iter(figures))] for seed, one in each[way].items()}
        gaps = _over_floors(module, lecture, units, rows[way], head)
        for other in done:
            base = str(other.facts["start"])
            both = sorted(head.keys() & each[other].keys())
            if base in module.BASES and other is not way and both:
                theirs = [each[other][seed][next(iter(figures))] for seed in both]
                ours = [head[seed] for seed in both]
                gaps[base] = weighed_difference(ours, theirs, patients[rows[way]])
        yield {
            **way.facts,
            "seeds": sorted(units),
            "figures": {name: asdict(figure) for name, figure in figures.items() if figure},
            "above": {base: asdict(gap) for base, gap in gaps.items() if gap},
            "sites": len(lecture.sites),
            "images": len(learned),
            "patients": len(np.unique(patients[learned])),
            "val_images": len(lecture.val),
            "test_images": len(rows[way]),
            "test_patients": len(np.unique(patients[rows[way]])),
            "best_rounds": [arm.best for arm in units.values()],
            "cpu_s": [round(arm.seconds, 1) for arm in units.values()],
            "measured": old.get(way.key(0), {}).get("measured") or _measured(),
            "key": way.key(0),
        }


def _over_floors(
    module: ModuleType,
    lecture: Lecture,
    done: Mapping[int, Arm],
    rows: Any,
    head: Mapping[int, Weighed],
) -> dict[str, Any]:
    """Return by how much a row lies above floors that its own answers hold."""
    if not hasattr(module, "floors"):
        return {}
    exam, patients = exam_of(lecture, rows), lecture.images.catalog.patients[rows]
    each = [module.floors(at(arm, rows), exam) for arm in done.values()]
    return {
        name: weighed_difference(list(head.values()), [one[name] for one in each], patients)
        for name in each[0]
    }


def _measured() -> dict[str, Any]:
    facts = timing.facts()
    return {name: facts[name] for name in ("date", "commit", "load")}


def _figures(
    module: ModuleType, lecture: Lecture, answers: Mapping[str, Any], rows: Any
) -> Mapping[str, Weighed]:
    judge, exam = judge_of(lecture.run), exam_of(lecture, rows)
    own = getattr(module, "figures", None)
    return own(answers, exam) if own is not None else judge.figures(answers, exam)


def told(figure: Mapping[str, float] | None, sign: str = "") -> str:
    """Return a figure as text."""
    if figure is None:
        return ""
    return f"{figure['mean']:{sign}.3f} [{figure['low']:{sign}.3f}, {figure['high']:{sign}.3f}]"


def markdown(module: ModuleType, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table; rows of fewer than three seeds say so."""
    if not rows:
        return "Nothing is measured yet.\n"
    facts = list(module.COLUMNS)
    heads = [
        *facts,
        "images",
        *module.MEASURES,
        *(f"above {base}" for base in module.BASES),
        "seeds",
    ]
    lines = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    for row in rows:
        cells = [str(row[name]) for name in facts] + [str(row["images"])]
        cells += [told(row["figures"].get(name)) for name in module.MEASURES]
        cells += [_apart(row["above"].get(base)) for base in module.BASES]
        lines.append("| " + " | ".join([*cells, str(len(row["seeds"]))]) + " |")
    return "\n".join(lines) + "\n"


def _apart(gap: Mapping[str, float] | None) -> str:
    """Return a paired difference; bold where its interval leaves 0 out."""
    if gap is None:
        return ""
    return f"**{told(gap, '+')}**" if gap["low"] > 0 or gap["high"] < 0 else told(gap, "+")


def main() -> None:
    """Make what is missing of a table and print it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--place", type=Path, default=default_cache_dir() / "downstream")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=1e9, help="begin nothing after so many")
    parser.add_argument(
        "--only", nargs="+", default=[], help="rows with these facts, e.g. histo 10%%"
    )
    parser.add_argument("--show", action="store_true", help="make nothing")
    asked = parser.parse_args()
    os.nice(10)
    module = import_module(asked.table)
    desk = Desk(data=asked.data.resolve(), place=asked.place.resolve())
    if not asked.show:
        until = time.monotonic() + 60 * asked.minutes
        made(module, desk, asked.seeds, set(asked.only), until)
    print(markdown(module, kept(module, desk, asked.seeds)))


if __name__ == "__main__":
    main()

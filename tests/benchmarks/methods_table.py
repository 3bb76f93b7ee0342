"""The tables of ``methods.py``: a line for each method, alone and federated side by side.

    python tests/benchmarks/methods_table.py [results/methods.json ...]

"above untrained" is the difference of the linear probe's AUC from that of the same encoder before
training, with an interval of 95 %: the two intervals' widths joined in squares, as if the test
patients were others. They are the same, so that it is too wide rather than too narrow. Bold where
it leaves out 0. No correction is made for how many methods stand here.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import hypot
from pathlib import Path
from typing import Any

from confrere_common.method import METHODS
from confrere_common.storage import atomic_write

Row = Mapping[str, Any]

HEADS = (
    *("method", "encoder", "linear AUC alone", "above untrained", "linear AUC federated"),
    *("above untrained", "linear AUC each site alone", "kNN alone, federated"),
    *("RankMe alone, federated", "loss alone", "loss federated"),
    *("CPU ms/image", "peak MiB", "MB/round"),
)


def markdown(rows: Iterable[Row]) -> str:
    """Return the tables of all rows, one for each set, number of steps and size."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["data"], row["steps"], row["large"]), []).append(row)
    return "\n".join(
        line for group, found in sorted(groups.items()) for line in _table(group, found)
    )


def _table(group: tuple[Any, ...], rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of one set's table: floors, then methods, the best federated AUC first."""
    data, steps, large = group
    good = [row for row in rows if "fault" not in row]
    yield f"### {data}: {steps} steps in all, {'full' if large else 'small'} encoders\n"
    if good:
        one = good[0]
        yield (
            f"{one['train_images']} images at {one['sites']} sites, {one['test_images']} to test; "
            f"intervals of 95 % over test patients and {len(one['seeds'])} seed(s).\n"
        )
    yield _line(HEADS)
    yield "| --- " * len(HEADS) + "|"
    yield from map(_line, _floors_and_methods(good))
    for row in rows:
        if "fault" in row:
            yield f"\n{row['method']}, {row['arm']}: not to be had: {row['fault']}"
    yield ""


def _floors_and_methods(good: Sequence[Row]) -> Iterator[list[str]]:
    yield from (_floor(row) for row in good if row["method"] == "floor")
    untrained = {_outside(row): row for row in good if row["arm"] == "random"}
    methods: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in good:
        if row["method"] != "floor":
            name = (row["method"], row["encoder"], *_changed(row))
            methods.setdefault(name, {})[row["arm"]] = row
    for arms in sorted(methods.values(), key=_reached, reverse=True):
        yield _method(arms, untrained)


def _changed(row: Row) -> tuple[str, ...]:
    """Return what a row has other than the plain ones."""
    share = row.get("share", 1.0)
    return (*row.get("changes", ()), *([f"{share:.0%} of the patients"] if share < 1 else []))


def _outside(row: Row) -> tuple[str, ...]:
    """Return what of a row an untrained encoder shares with it."""
    changes = row.get("changes", ())
    return (row["encoder"], *(one for one in changes if one.startswith(("encoder.", "data."))))


def _reached(arms: Mapping[str, Row]) -> float:
    best = arms.get("federated") or next(iter(arms.values()))
    return float(best["linear_auc"]["mean"])


def _floor(row: Row) -> list[str]:
    name = "raw pixels" if row["arm"] == "raw" else " ".join(["untrained", *_outside(row)[1:]])
    encoder = "" if row["arm"] == "raw" else row["encoder"]
    figures = [_told(row["linear_auc"]), "", "", "", "", _told(row["knn_accuracy"])]
    return [name, encoder, *figures, f"{row['rankme']['mean']:.1f}", "", "", "", "", ""]


def _method(arms: Mapping[str, Row], untrained: Mapping[tuple[str, ...], Row]) -> list[str]:
    some = next(iter(arms.values()))
    labels = "label" in METHODS.member(some["method"]).wants
    name = " ".join([f"{some['method']}{' *' if labels else ''}", *_changed(some)])
    alone, pooled, local = (arms.get(arm) for arm in ("centralised", "federated", "local"))
    floor = untrained.get(_outside(some))
    cells = [name, some["encoder"]]
    for row in (alone, pooled):
        cells += [_told(row["linear_auc"]) if row else "", above(row, floor)]
    both = [row for row in (alone, pooled) if row]
    cells += [
        _told(local["linear_auc"]) if local else "",
        ", ".join(f"{row['knn_accuracy']['mean']:.3f}" for row in both),
        ", ".join(f"{row['rankme']['mean']:.1f}" for row in both),
        *(_loss(row) for row in (alone, pooled)),
    ]
    return [*cells, *_costs(pooled or some)]


def _loss(row: Row | None) -> str:
    return f"{row['first_loss']:.3g} to {row['last_loss']:.3g}" if row else ""


def _costs(row: Row) -> list[str]:
    sent = f"{row['bytes_per_round'] / 1e6:.1f}" if row["arm"] == "federated" else ""
    return [f"{1000 * row['cpu_s_per_image']:.1f}", f"{row['peak_rss_mib']:.0f}", sent]


def above(row: Row | None, floor: Row | None) -> str:
    """Return by how much a row lies above another by linear AUC; empty where one is missing."""
    if row is None or floor is None:
        return ""
    ours, theirs = row["linear_auc"], floor["linear_auc"]
    gap = ours["mean"] - theirs["mean"]
    low = gap - hypot(ours["mean"] - ours["low"], theirs["high"] - theirs["mean"])
    high = gap + hypot(ours["high"] - ours["mean"], theirs["mean"] - theirs["low"])
    said = f"{gap:+.3f} ({low:+.3f} to {high:+.3f})"
    return f"**{said}**" if low > 0 or high < 0 else said


def _told(figure: Mapping[str, float]) -> str:
    return f"{figure['mean']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Join the rows of the files given, keep them in the first, and print its tables."""
    files = [Path(name) for name in sys.argv[1:]]
    rows = [row for file in files for row in json.loads(file.read_bytes())["rows"]]
    text = json.dumps({"rows": rows}, indent=1) + "\n"
    atomic_write(files[0], text.encode())
    atomic_write(files[0].with_suffix(".md"), markdown(rows).encode())
    print(markdown(rows))


if __name__ == "__main__":
    main()

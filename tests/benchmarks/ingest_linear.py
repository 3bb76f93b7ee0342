"""Are two jobs twice as fast as one? Ours, and beside it the most that the machine gives.

    python tests/benchmarks/ingest_linear.py [--seconds 20] [--repeats 3] [--kinds ...] [--quick]

Wants a machine on which nothing else runs. Makes enough files of each kind for so many seconds of
one job, and prepares them with one job and with two. Beside it, in turns, the plain loop of
``ingest.py`` over the same files: one process, and two forked ones with half of the files each,
which share nothing and write a file each. What the plain loop loses is the machine's (memory, disk,
clock), so ``of the possible`` is our gain over the plain loop's. Prints a table and writes
``results/ingest_linear.json``.
"""

import argparse
import math
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from ingest import both, cpu_s, each_kind, ours
from ingest_kinds import BOX_SLICES, KINDS, Decoded, plain
from timing import Row, facts, said, write

LINEAR = 0.9
"""Of what the plain loop gains by a second process, how much ours shall gain by a second job."""


def linear(name: str, seconds: float, repeats: int, folder: Path) -> Row:
    """Return how long one and two take over as many files as ours is *seconds* at."""
    make, decoded, plan, _ = KINDS[name]
    count = _enough(name, seconds, folder)
    make(folder / "all", count)
    files = sorted((folder / "all").rglob("*.*"))
    runs = [
        {
            "ours": [
                both(lambda n=jobs: ours(folder / "all", folder / "set", plan, n))
                for jobs in (1, 2)
            ],
            "plain": [
                both(lambda n=jobs: split(decoded, files, folder / "plain", n)) for jobs in (1, 2)
            ],
        }
        for _ in range(repeats)
    ]
    found: Row = {"files": count, "load": round(os.getloadavg()[0], 1)}
    for who in ("ours", "plain"):
        found[f"{who}_wall_s"] = [median(run[who][at][0] for run in runs) for at in (0, 1)]
        found[f"{who}_cpu_s"] = [median(run[who][at][1] for run in runs) for at in (0, 1)]
        found[f"{who}_faster"] = median(run[who][0][0] / run[who][1][0] for run in runs)
    return found


def _enough(name: str, seconds: float, folder: Path) -> int:
    """Return how many files take ours so many seconds, whole series."""
    make, _, plan, _ = KINDS[name]
    few, more = 2 * BOX_SLICES, 6 * BOX_SLICES
    spent = []
    for files in (few, more):
        make(folder / str(files), files)
        spent.append(cpu_s(lambda n=files: ours(folder / str(n), folder / "set", plan)))
    per_box_s = (spent[1] - spent[0]) / (more - few) * BOX_SLICES
    return BOX_SLICES * 2 * math.ceil(seconds / per_box_s / 2)


def split(decoded: Decoded, files: Sequence[Path], out: Path, jobs: int) -> None:
    """Run the plain loop over *files* in so many processes, an even share each."""
    share = len(files) // jobs
    fork = multiprocessing.get_context("fork")
    hands = [
        fork.Process(
            target=plain,
            args=(decoded, files[at * share : (at + 1) * share], out.with_suffix(f".{at}")),
        )
        for at in range(jobs)
    ]
    for hand in hands:
        hand.start()
    for hand in hands:
        hand.join()
        if hand.exitcode:
            raise SystemExit(f"a plain loop ended with {hand.exitcode}")


def show(kinds: Mapping[str, Row]) -> None:
    """Print the table."""
    head = (
        "files", "ours 1 job", "ours 2 jobs", "faster", "plain 1", "plain 2", "faster",
        "of possible", "", "load",
    )  # fmt: skip
    print(f"{'':24}" + "".join(f"{word:>12}" for word in head))
    for name, row in kinds.items():
        share = row["ours_faster"] / row["plain_faster"]
        words = (
            str(row["files"]),
            *(f"{one:.1f}" for one in row["ours_wall_s"]), f"{row['ours_faster']:.2f}",
            *(f"{one:.1f}" for one in row["plain_wall_s"]), f"{row['plain_faster']:.2f}",
            f"{share:.2f}", said(share >= LINEAR), f"{row['load']:.1f}",
        )  # fmt: skip
        print(f"{name:24}" + "".join(f"{word:>12}" for word in words))


def main() -> None:
    """Measure, show, write."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--seconds", type=float, default=20.0, help="of one job of ours")
    words.add_argument("--repeats", type=int, default=3)
    words.add_argument("--kinds", nargs="*", choices=KINDS, default=[*KINDS])
    words.add_argument("--quick", action="store_true", help="write nothing")
    given = words.parse_args()
    kinds = each_kind(
        given.kinds,
        lambda name, folder: linear(name, given.seconds, given.repeats, folder),
    )
    show(kinds)
    if not given.quick:
        write("ingest_linear", {**facts(), "kinds": kinds})


if __name__ == "__main__":
    main()

"""Break real files of every kind 24,000 times and read them: no crash, no hang, bounded memory.

    nice python tests/benchmarks/fuzz_readers.py --data ../shared/data [--inputs 24000] [--quick]

Each input is a real file that a reader claims, broken at random; the readers take turns, and three
of four files could be read before (``sound``). Made files, a tenth more, are counted apart.
Each is read and prepared as ``confrere client prepare`` does, but for the writing, in a child
process with a limit of time and memory, so that a fault of a C library is seen and counted as what
it is. It prints what came of the inputs and every offender, and writes
``results/fuzz_readers.json`` (``--quick`` writes nothing).
"""

import argparse
import multiprocessing as mp
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import fuzz_seeds
from fuzz_seeds import Seed
from timing import facts, peak_mib, write

INPUTS = 24_000
MADE_SHARE = 10
"""One generated input for so many real ones."""

SECONDS = 10
MEMORY_BYTES = 3 << 30
"""Of the address space of the child; numpy, ITK and OpenSlide take half a gibibyte of it idle."""

FAULTS = ("CRASH", "HANG", "ESCAPED")


class Late(BaseException):
    """An input took too long."""


def _late(*_: object) -> None:
    raise Late


def _child(line: Connection, seeds: Sequence[Seed], folder: Path) -> None:
    """Read what is asked for; answer what came of it, the seconds, and the most memory so far."""
    import mutation

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, _late)
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries write there of what they meet
    while (number := line.recv()) is not None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        file = fuzz_seeds.broken(fuzz_seeds.chosen(seeds, number), number, folder)
        began = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            kind = mutation.tried(file)
        except Late:
            kind = "HANG"
        except BaseException as fault:
            kind = f"ESCAPED {type(fault).__name__}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        line.send((kind, time.perf_counter() - began, peak_mib()))


@dataclass
class Counts:
    """What came of the inputs."""

    inputs: "Counter[str]" = field(default_factory=Counter)
    outcomes: "dict[str, Counter[str]]" = field(default_factory=lambda: defaultdict(Counter))
    offenders: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    peak: float = 0.0

    def add(self, number: int, seed: Seed, kind: str, seconds: float, peak: float) -> None:
        """Count an input."""
        name = f"{seed.reader}: {seed.file.name}"
        self.inputs[seed.reader] += 1
        self.outcomes[seed.reader][kind] += 1
        self.slowest = max(self.slowest, (seconds, name))
        self.peak = max(self.peak, peak)
        if kind.startswith(FAULTS):
            self.offenders.append(f"{number} {name} {kind}")
            print("offender", self.offenders[-1], flush=True)

    def said(self, seeds: Sequence[Seed]) -> dict[str, Any]:
        """Return what is written of them."""
        of = fuzz_seeds.counted(seeds)
        sound = fuzz_seeds.counted(seed for seed in seeds if seed.sound)
        return {
            "inputs": self.inputs.total(),
            "files": len(seeds),
            "readers": {
                name: {
                    "files": of[name],
                    "sound_files": sound.get(name, 0),
                    "inputs": count,
                    **_apart(self.outcomes[name]),
                }
                for name, count in sorted(self.inputs.items())
            },
            "slowest_s": round(self.slowest[0], 3),
            "slowest": self.slowest[1],
            "peak_mib": round(self.peak),
            "offenders": self.offenders,
        }


def _apart(outcomes: "Counter[str]") -> dict[str, Any]:
    return {
        "read": outcomes["read"],
        "unclaimed": outcomes["unclaimed"],
        "skipped": {
            kind: count
            for kind, count in outcomes.most_common()
            if kind not in ("read", "unclaimed")
        },
    }


def _started(seeds: Sequence[Seed], folder: Path) -> tuple[mp.Process, Connection]:
    ours, theirs = mp.Pipe()
    child = mp.Process(target=_child, args=(theirs, seeds, folder), daemon=True)
    child.start()
    theirs.close()
    return child, ours


def _answers(seeds: Sequence[Seed], count: int, folder: Path) -> Iterator[tuple[str, float, float]]:
    """Yield what came of each input; a child that died or hangs is replaced."""
    child, line = _started(seeds, folder)
    for number in range(count):
        line.send(number)
        try:
            alive = line.poll(3 * SECONDS)
            answer = line.recv() if alive else ("HANG", 3.0 * SECONDS, 0.0)
        except EOFError:
            alive = False
            child.join()
            answer = (f"CRASH {child.exitcode}", 0.0, 0.0)
        yield answer
        if not alive:
            child.kill()
            child, line = _started(seeds, folder)
    line.send(None)
    child.join()


def _fuzzed(seeds: Sequence[Seed], count: int, folder: Path) -> dict[str, Any]:
    counts, began = Counts(), time.perf_counter()
    for number, answer in enumerate(_answers(seeds, count, folder)):
        counts.add(number, fuzz_seeds.chosen(seeds, number), *answer)
        if number % 1000 == 999:
            rate = (number + 1) / (time.perf_counter() - began)
            print(f"{number + 1:7} inputs, {rate:.0f} a second", flush=True)
    return counts.said(seeds)


def _show(kind: str, result: dict[str, Any]) -> None:
    print(f"{kind}: {result['inputs']} inputs of {result['files']} files; slowest ", end="")
    print(f"{result['slowest_s']} s ({result['slowest']}); {result['peak_mib']} MiB at most")
    for name, of in result["readers"].items():
        skipped = sum(of["skipped"].values())
        print(
            f"  {name:8} {of['files']:5} files {of['inputs']:6} inputs {of['read']:6} read ", end=""
        )
        print(f"{skipped:6} skipped {of['unclaimed']:5} unclaimed")


def main() -> int:
    asked = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    asked.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    asked.add_argument("--inputs", type=int, default=INPUTS, help="of real files")
    asked.add_argument("--quick", action="store_true", help="write no results")
    given = asked.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz") as name:
        folders = [Path(name) / part for part in ("real", "made", "input")]
        for folder in folders[:2]:
            folder.mkdir()
        seeds = {
            "real": fuzz_seeds.real(given.data, folders[0]),
            "generated": fuzz_seeds.generated(folders[1]),
        }
        counts = {"real": given.inputs, "generated": given.inputs // MADE_SHARE}
        found = {kind: _fuzzed(seeds[kind], counts[kind], folders[2]) for kind in seeds}
    for kind, result in found.items():
        _show(kind, result)
    if not given.quick:
        limits = {"seconds": SECONDS, "address_space_mib": MEMORY_BYTES >> 20}
        write("fuzz_readers", {**facts(), "limits": limits, **found})
    return any(result["offenders"] for result in found.values())


if __name__ == "__main__":
    sys.exit(main())

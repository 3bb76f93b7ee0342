"""A fine-tuned network answers for a hospital's images: from a release to files that stay here."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Protocol, cast

from confrere_client.device import choose_device
from confrere_client.predict.asked import Tally
from confrere_client.predict.desk import Desk, Order, Watch
from confrere_client.predict.table import TEXT, open_table
from confrere_common.errors import ConfigError, DataError
from confrere_common.network import Network
from confrere_common.storage import atomic_write

FILE = "predicted.json"
"""Written last: where it stands, the answers are whole."""

ONLY_FOR = {"query": "retrieval", "normal": "anomaly"}
"""Option -> the task that knows it."""


class Output(Protocol):
    """A module ``predict/outputs/<task>.py``."""

    def write(self, desk: Desk) -> None:
        """Ask the network about the order's images, and write what it answers."""


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What was answered."""

    task: str
    answered: int
    skipped: Sequence[tuple[str, str]]
    """Name of an image and why it was not asked about; also in ``skipped.csv``."""

    recoloured: int
    files: Sequence[str]


def predict(
    network: Network, order: Order, *, device: str = "auto", watch: Watch = lambda *_: None
) -> Predicted:
    """Write what the network answers for the order's images.

    Guarantee: no connection is opened, and nothing is written but in the order's folder (and the
    image cache, for own normal images). Of a prepared data set nothing written names anybody.

    Memory holds the network and a batch of images, whatever their number (and an index while it is
    searched). ConfigError for what the task does not know, DataError when no image can be asked
    about or the folder cannot be written.
    """
    _must_be_known(network, order)
    chosen, tally = choose_device(device), Tally()
    output = cast(Output, import_module(f"{__package__}.outputs.{network.name}"))
    network.task.to(chosen).eval()
    try:
        with _folder(order.out, tally), ExitStack() as files:
            output.write(
                Desk(
                    network=network, order=order, device=chosen, tally=tally, files=files,
                    watch=watch,
                )
            )  # fmt: skip
            _must_have_answered(tally)
        return _told(network, order, tally)
    except OSError as fault:
        raise DataError(
            f"'{order.out}' cannot be written: {fault.strerror}. What stands there is not whole."
        ) from None


@contextmanager
def _folder(out: Path, tally: Tally) -> Iterator[None]:
    """Make the folder; where a fault comes before any answer, leave nothing behind."""
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if not tally.answered:
            shutil.rmtree(out, ignore_errors=True)  # it was new or empty: the order saw to that
        raise


def _must_be_known(network: Network, order: Order) -> None:
    faults = [
        f"--{option} is for task '{task}', and this network's is '{network.name}': leave it out."
        for option, task in ONLY_FOR.items()
        if getattr(order, option) is not None and network.name != task
    ]
    if faults:
        raise ConfigError(faults, "the order")


def _must_have_answered(tally: Tally) -> None:
    if tally.answered:
        return
    reasons = Counter(reason for _, reason in tally.skipped).most_common(3)
    listed = "; ".join(f"{times} x {reason}" for reason, times in reasons)
    raise DataError(
        f"none of the {len(tally.skipped)} images can be asked about: {listed}. The network's card "
        "(encoder.json) says what it takes."
    )


def _told(network: Network, order: Order, tally: Tally) -> Predicted:
    """Write what was skipped and, last, what made the answers."""
    if tally.skipped:
        with open_table(order.out / "skipped.csv", {"image": TEXT, "reason": TEXT}) as table:
            names, reasons = zip(*tally.skipped, strict=True)
            table.add({"image": names, "reason": reasons})
    files = sorted(path.name for path in order.out.iterdir() if path.name != FILE)
    plain = {
        "task": network.name,
        "classes": list(network.task.classes),
        "network": network.digest,
        "images": tally.answered,
        "skipped": len(tally.skipped),
        "files": files,
        "created": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "version": version("confrere"),
        "note": "Answers about patients, for research, of no medical device: they stay here.",
    }
    atomic_write(order.out / FILE, json.dumps(plain, indent=2).encode() + b"\n")
    return Predicted(
        task=network.name,
        answered=tally.answered,
        skipped=tuple(tally.skipped),
        recoloured=tally.recoloured,
        files=files,
    )

"""Prepare a folder's files in a test, and ask what was kept of them and what was skipped."""

from collections import Counter
from pathlib import Path
from typing import Any

from confrere_client.ingest.keeping.dataset import Dataset, open_dataset, place_of
from confrere_client.ingest.keeping.shards import FOLDER, Shards
from confrere_client.ingest.prepare import Done, Order, prepare, private_folder
from confrere_client.ingest.preprocess_plan import Plan

Prepared = tuple[Done, Dataset]


def order(folder: Path, **knobs: Any) -> Order:
    plan = knobs.pop("plan", Plan(image_px=None))
    return Order(**{"sources": (folder / "in",), "dataset": folder / "out", "plan": plan, **knobs})


def prepared(folder: Path, **knobs: Any) -> Prepared:
    done = prepare(order(folder, **knobs))
    return done, open_dataset(folder / "out", "out")


def pixels(dataset: Dataset) -> list[bytes]:
    shards = Shards(dataset.folder / FOLDER)
    return sorted(
        shards.image(place_of(row), tuple(row["shape"]), row["dtype"]).tobytes()
        for row in dataset.rows()
    )


def reasons(folder: Path) -> Counter[str]:
    lines = (private_folder(folder / "out") / "skipped.csv").read_text().splitlines()[2:]
    return Counter(line.split(",")[0] for line in lines)


def parent(folder: Path) -> Path:
    """Make a folder for what comes into it, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder

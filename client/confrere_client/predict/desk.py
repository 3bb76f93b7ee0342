"""The desk at which a network is asked: images come in batches, answers go into files.

Shapes: N images.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from confrere_client.data.images import Images
from confrere_client.embed import takes_crops
from confrere_client.finetune.judge import Exam, Rows
from confrere_client.place import kind_at
from confrere_client.predict.asked import Batch, Place, Tally, batches, open_place
from confrere_client.predict.table import FORMS, Table, open_table
from confrere_common.errors import ConfigError
from confrere_common.network import Network
from confrere_common.task import FineTask

Watch: TypeAlias = Callable[[str, int, int | None], None]
"""Hear of a step how many images are done, of how many."""

KEY = re.compile(r"[0-9A-Za-z_-]+")


@dataclass(frozen=True, kw_only=True)
class Order:
    """What somebody wants to be told."""

    source: Path
    """The images: a prepared data set, a table, a folder, an archive of arrays; for neighbours also
    an index that was made before."""

    out: Path
    """A folder that is not there yet, or is empty."""

    knobs: Mapping[str, Any] = field(default_factory=dict)
    """How the source is read (its own knobs)."""

    form: str = "csv"
    normal: Path | None = None
    """Own normal images that an anomaly is held against."""

    query: Path | None = None
    """Images whose like is looked for in the source."""

    neighbours: int = 5

    def __post_init__(self) -> None:
        """Refuse a form that there is none of, and a folder that something would be lost in."""
        if self.form not in FORMS:
            raise ConfigError([f"'{self.form}' is not one of {', '.join(FORMS)}."], "--format")
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise ConfigError(["holds files already: name a new folder."], str(self.out))
        if self.source.is_dir() and self.out.resolve().is_relative_to(self.source.resolve()):
            raise ConfigError(
                ["lies among the images: its maps would be taken for such. Name another folder."],
                str(self.out),
            )


@dataclass(frozen=True, kw_only=True)
class Desk:
    """A network with what it is asked, and where its answers go."""

    network: Network
    """Its task lies on the device."""

    order: Order
    device: torch.device
    tally: Tally
    files: ExitStack
    """Closes the tables."""

    watch: Watch

    @property
    def task(self) -> FineTask:
        """Return the network itself."""
        return self.network.task

    @property
    def crops(self) -> bool:
        """Say whether the network learned from crops of images as they are."""
        return takes_crops(self.network.card)

    def place(self, path: Path) -> Place:
        """Return the images at *path*; knobs hold for all places of the source's kind."""
        alike = kind_at(path.expanduser()) == kind_at(self.order.source.expanduser())
        return open_place(path, self.network.card, self.order.knobs if alike else {})

    def batches(
        self, place: Place, step: str = "images", *, whole: bool = False
    ) -> Iterator[Batch]:
        """Yield the images of a place, as the network sees them or *whole*; see ``asked``."""
        heard = partial(self.watch, step)
        return batches(place, self.network.card, self.tally, whole=whole, progress=heard)

    def exam(self, batch: Batch) -> Exam:
        """Return the questions about a batch."""
        return self.exam_on(batch.images, np.arange(len(batch)))

    def exam_on(self, images: Images, asked: Rows, learned: Rows | None = None) -> Exam:
        """Return questions about *asked* among *images*, held against *learned* ones of them."""
        known = asked[:0] if learned is None else learned
        return Exam(
            run=self.network.run, images=images, learned=known, asked=asked, device=self.device
        )

    def table(self, name: str, columns: Mapping[str, Any]) -> Table:
        """Return a table of answers in the form that is wanted, closed with the desk."""
        path = self.order.out / f"{name}.{self.order.form}"
        return self.files.enter_context(open_table(path, columns))

    def folder(self, name: str) -> Path:
        """Return a folder beside the tables."""
        made = self.order.out / name
        made.mkdir(mode=0o700, exist_ok=True)
        return made


def file_name(place: Place, name: str, number: int) -> str:
    """Return what a file about an image is called: by its key, which names nobody, else a number.

    A path would tell whom it is about, and may lead out of the folder.
    """
    key = name.replace("#", "-")
    return key if place.keyed and KEY.fullmatch(key) else f"image-{number:07d}"

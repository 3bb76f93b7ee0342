"""What a network is asked about: the images of a source, in batches as judges take them.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np

from confrere_client.data.cache import Progress, in_order
from confrere_client.data.catalog import catalog_of
from confrere_client.data.decode import Pixels
from confrere_client.data.images import Images
from confrere_client.data.volumes import Volumes
from confrere_client.device import at_once
from confrere_client.embed import as_input, kind_of, stacked, warn_of_differences
from confrere_client.finetune.judge import BATCH
from confrere_client.place import kind_at, source_at
from confrere_client.source import Record, Source, UnreadableImage, open_source
from confrere_common.family import Named
from confrere_common.release import Card

log = getLogger(__name__)
COLOURS = frozenset({1, 3})
"""Channels of pictures that can be turned into each other: grey and colour."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where images are asked for."""

    named: Named
    source: Source

    @property
    def keyed(self) -> bool:
        """Say whether names of images are keys that tell nobody."""
        return self.named.name == "prepared"

    @property
    def sliced(self) -> bool:
        """Say whether pictures are slices of volumes, whose channels are no colours."""
        return bool(self.named.knobs.get("slices", "none") != "none")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some images, as their source has them and as the network sees them."""

    records: Sequence[Record]
    sides: Sequence[tuple[int, ...]]
    """[Z] Y X of each as its source has it."""

    images: Images
    """The same as the network sees them."""

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.records)

    @property
    def names(self) -> list[str]:
        """Return what the source calls each."""
        return [record.name for record in self.records]


@dataclass
class Tally:
    """What became of the images; it grows as they are read."""

    answered: int = 0
    recoloured: int = 0
    """Grey pictures that were given as colour, or the other way round."""

    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Name and reason."""


def open_place(path: Path, card: Card, knobs: Mapping[str, Any]) -> Place:
    """Return the images at *path* as a network of *card* can take them; *knobs* go before.

    DataError says what cannot be read there.
    """
    kind = kind_at(path.expanduser())
    own: Mapping[str, Mapping[str, Any]] = {
        "prepared": kind_of(card),
        "npz": {"dims": len(card.size)},
    }
    usual = dict(own.get(kind, {}))
    if kind == "prepared" and "slices" in knobs:
        usual["dims"] = None  # slices are of volumes, whatever the network takes
    named = source_at(path, kind, {**usual, **knobs})
    source = open_source(named, Path())
    if source.preparation is not None:
        warn_of_differences(source, card)
    elif card.preprocessing.get("prepared"):
        log.warning(
            "the network learned from prepared images, and these are none: bring them by "
            "confrere client prepare, with the options that its card tells."
        )
    return Place(named=named, source=source)


def batches(
    place: Place, card: Card, tally: Tally, *, whole: bool, progress: Progress | None = None
) -> Iterator[Batch]:
    """Yield the images of a place that can be read; the others are counted in *tally*.

    *whole*: one by one at their own size, where a network of crops is to answer for all of each.
    No more than a batch of inputs, and a few images that are being decoded, lie in memory.
    """
    records = place.source.records()
    read = in_order(partial(_read, card=card, whole=whole, strict=place.sliced), records)
    pairs = zip(records, read, strict=True)
    count = 1 if whole else min(BATCH, at_once(card.size))
    done = 0
    while some := list(islice(pairs, count)):
        done += len(some)
        kept = [(record, one) for record, one in some if isinstance(one, _Read)]
        tally.skipped += [(record.name, one) for record, one in some if isinstance(one, str)]
        tally.recoloured += sum(one.channels != card.channels for _, one in kept)
        if kept:
            yield _batch(kept, card, whole=whole)
            tally.answered += len(kept)
        if progress:
            progress(done, len(records))


@dataclass(frozen=True, kw_only=True)
class _Read:
    pixels: Pixels
    """An input of the network, or the whole image as it lies on the disk."""

    sides: tuple[int, ...]
    channels: int


def _read(record: Record, card: Card, *, whole: bool, strict: bool) -> _Read | str:
    """Return an image, or why it cannot be asked about. Threads call it."""
    try:
        image = record.decode()
        _must_suit(image, card, strict=strict)
        pixels = image if whole else as_input(image, card)
    except UnreadableImage as fault:
        return str(fault)
    return _Read(pixels=pixels, sides=image.shape[1:], channels=image.shape[0])


def _must_suit(image: Pixels, card: Card, *, strict: bool) -> None:
    """Refuse other axes than the network's, and channels that are no colours and other than its."""
    axes, due = image.ndim - 1, len(card.size)
    if axes != due or 0 in image.shape:
        raise UnreadableImage(f"is {axes}-D, and the network takes {due}-D images")
    colours = not strict and axes == 2 and {image.shape[0], card.channels} <= COLOURS
    if image.shape[0] != card.channels and not colours:
        raise UnreadableImage(
            f"has {image.shape[0]} channels, and the network takes {card.channels}"
        )


def _batch(kept: Sequence[tuple[Record, _Read]], card: Card, *, whole: bool) -> Batch:
    records, sides = [record for record, _ in kept], [one.sides for _, one in kept]
    pixels: Any = stacked([one.pixels for _, one in kept]) if not whole else Volumes(
        arrays=[partial(np.asarray, one.pixels) for _, one in kept],
        sizes=sides,
        crop=card.size,
        channels=card.channels,
        dtype=kept[0][1].pixels.dtype.name,
    )  # fmt: skip
    images = Images(pixels=pixels, catalog=catalog_of(records), skipped=(), digest="")
    return Batch(records=records, sides=sides, images=images)

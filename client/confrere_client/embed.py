"""Features of images under a trained encoder: in batches, on whatever device there is.

Shapes: N images, F features, C channels, [Z] Y X voxels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from confrere_client.data.decode import decode_image, fit, recolour
from confrere_client.data.volumes import middle, part
from confrere_client.device import at_once, choose_device
from confrere_client.facts import Pixels
from confrere_client.source import Record, Source, UnreadableImage, open_source
from confrere_common.augment.pipeline import CROPPED, normalise
from confrere_common.encoder import Encoder
from confrere_common.errors import DataError
from confrere_common.family import Named
from confrere_common.pki.keys import signing_public
from confrere_common.preparation import differences
from confrere_common.release import Card, load_release
from confrere_common.storage import atomic_write

log = getLogger(__name__)
T = TypeVar("T")
BATCH = 128
Picture: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


@torch.inference_mode()
def features(encoder: Encoder, images: Pixels, device: torch.device) -> NDArray[np.float32]:
    """Return features of all *images*, shape (N, F); the encoder is left in evaluation mode."""
    encoder = encoder.to(device).eval()
    found = np.empty((len(images), encoder.width), dtype=np.float32)
    batch = min(BATCH, at_once(encoder.size))
    for start in range(0, len(images), batch):
        rows = np.arange(start, min(start + batch, len(images)))
        stored = images.batch(rows).to(device)
        found[rows] = encoder(normalise(stored)).float().cpu().numpy()
    return found


@dataclass(frozen=True, kw_only=True)
class Embedder:
    """A released encoder, ready for image files."""

    encoder: Encoder
    card: Card
    device: torch.device

    def embed(self, *places: str | Path) -> tuple[list[Path], NDArray[np.float32]]:
        """Return the readable image files at *places* (files or folders) and their features (N, F).

        DataError when there is no file, none can be read, or the encoder is one of volumes.
        """
        if len(self.card.size) != 2:
            raise DataError(
                "this is an encoder of volumes: image files are no input of it. Bring volumes by "
                "confrere client prepare, with the options that its card tells."
            )
        files = find_images([Path(place) for place in places])
        kept, found = [], []
        for some in _chunks(files, BATCH):
            readable = [(path, image) for path in some if (image := self._read(path)) is not None]
            if readable:
                stored = torch.from_numpy(stacked([image for _, image in readable]))
                kept += [path for path, _ in readable]
                found.append(self._features(stored))
        if not kept:
            raise DataError(f"none of the {len(files)} files is a readable image.")
        return kept, np.concatenate(found)

    def embed_prepared(self, folder: str | Path) -> tuple[list[str], NDArray[np.float32]]:
        """Return the keys of the exams in a prepared data set, and their features (N, F).

        Pictures for an encoder in 2-D, or slices where its card says that it learned from such
        (``key#number``); volumes for one in 3-D. A data set that was prepared otherwise than the
        encoder's is taken and warned of. DataError when none is of the kind, or can be read.
        """
        knobs = {"path": str(folder), **kind_of(self.card)}
        source = open_source(Named(name="prepared", knobs=knobs), Path())
        warn_of_differences(source, self.card)
        kept, found = [], []
        for some in _chunks(source.records(), self._batch):
            pairs = [(one.name, image) for one in some if (image := self._decoded(one)) is not None]
            if pairs:
                kept += [name for name, _ in pairs]
                found.append(self._features(torch.from_numpy(stacked([im for _, im in pairs]))))
        if not kept:
            raise DataError("none of the data set's images can be read: prepare it again.")
        return kept, np.concatenate(found)

    @property
    def _batch(self) -> int:
        """Return how many images are held at once."""
        return min(BATCH, at_once(self.card.size))

    def _decoded(self, record: Record) -> Picture | None:
        try:
            return as_input(record.decode(), self.card)
        except UnreadableImage:
            return None

    def _read(self, path: Path) -> Picture | None:
        try:
            return as_input(decode_image(path), self.card)
        except UnreadableImage:
            return None

    @torch.inference_mode()
    def _features(self, stored: torch.Tensor) -> NDArray[np.float32]:
        pixels = normalise(stored.to(self.device))
        result: NDArray[np.float32] = self.encoder(pixels).float().cpu().numpy()
        return result


def takes_crops(card: Card) -> bool:
    """Say whether the encoder learned from crops of images as they are."""
    return bool(card.preprocessing.get("resize") == CROPPED["resize"])


def as_input(image: Picture, card: Card) -> Picture:
    """Return an image as the encoder of *card* takes it: shrunk whole, or cut from the middle."""
    if takes_crops(card):
        corner = middle(image.shape[1:], card.size)
        return recolour(part(image, corner, card.size), card.channels)
    return fit(image, card.size[-1], card.channels)


def kind_of(card: Card) -> dict[str, Any]:
    """Return the knobs by which a prepared data set gives all that the encoder can take.

    Pictures or volumes, or volumes as their slices where its card says that it learned from such.
    """
    due = card.preprocessing.get("prepared", {})
    slices = due.get("slices", "none") if len(card.size) == 2 else "none"
    dims = len(card.size) if slices == "none" else None
    return {"dims": dims, "slices": slices, "leave_out": []}


def warn_of_differences(source: Source, card: Card) -> None:
    """Log in what a data set was prepared otherwise than that of the encoder."""
    for text in differences(source.preparation or {}, card.preprocessing.get("prepared", {})):
        log.warning("the data set was prepared otherwise than the encoder's: %s", text)


def load(path: str | Path, *, device: str = "auto", key: Path | None = None) -> Embedder:
    """Return the encoder saved at *path* (``encoder.safetensors``, its card beside it), 2-D or 3-D.

    ``encoder`` is a module of torch, ``card.preprocessing`` how pixels become its input.

    CheckpointError where a file of its release was altered, or with the signer's *key* (a ``.pub``)
    where anybody else signed it.
    """
    encoder, card = load_release(Path(path), signing_public(key.read_bytes()) if key else None)
    chosen = choose_device(device)
    return Embedder(encoder=encoder.to(chosen), card=card, device=chosen)


def write_features(
    path: Path, images: Sequence[Path | str], found: NDArray[np.float32], *, called: str = "path"
) -> None:
    """Write a Parquet file with one row an image: *called* and ``features`` (a list of F)."""
    # Imported here: only this needs it, and it takes long to load.
    import pyarrow as arrow
    from pyarrow import parquet

    values = arrow.array(found.reshape(-1))
    column = arrow.FixedSizeListArray.from_arrays(values, found.shape[1])
    table = arrow.table({called: [str(image) for image in images], "features": column})
    buffer = arrow.BufferOutputStream()
    parquet.write_table(table, buffer)
    atomic_write(path, buffer.getvalue().to_pybytes())


def find_images(places: Sequence[Path]) -> list[Path]:
    """List image files: each file as given, each folder searched to any depth, sorted."""
    files: list[Path] = []
    for place in places:
        if place.is_dir():
            inside = (path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES)
            files += sorted(path for path in inside if path.is_file())
        elif place.is_file():
            files.append(place)
        else:
            raise DataError(f"'{place}' is neither a file nor a folder.")
    if not files:
        known = ", ".join(SUFFIXES)
        raise DataError(f"no image files were found; looked for {known} at any depth.")
    return files


def stacked(pictures: Sequence[Picture]) -> NDArray[Any]:
    """Return one batch; 8-bit pictures are deepened when any has 16, as in the cache."""
    if all(picture.dtype == np.uint8 for picture in pictures):
        return np.stack(pictures)
    return np.stack([p if p.dtype == np.uint16 else p.astype(np.uint16) * 257 for p in pictures])


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]

"""A data set that 'confrere client prepare' made: pixels and masks mapped, keys for names."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from confrere_client.data.boxes import Box, read_boxes
from confrere_client.data.decode import Pixels
from confrere_client.data.fingerprint import content
from confrere_client.ingest.keeping.dataset import PERSON, Dataset, open_dataset, place_of
from confrere_client.ingest.keeping.shards import FOLDER, Place, Shards
from confrere_client.source import Record, Source, UnreadableImage
from confrere_common.errors import DataError
from confrere_common.section import section

AXES = {"axial": 0, "coronal": 1, "sagittal": 2}
"""Which of Z Y X a slice lies across."""

FACTS = ("source_shape", "spacing_mm", "tag_vendor", "mean", "std")
"""What a description of the images wants to know beside."""

ABOUT = (
    *((name, name) for name in PERSON.names),
    *((name, f"tag_{name}") for name in ("vendor", "kernel", "slice_thickness_mm")),
)
"""What an evaluation groups by, and its column; a data set need not have sex and age.

Guarantee: sex and age are told to an evaluation at the site and to nothing else: no image of a run
and no description knows them.
"""

TOLD = (
    "modality", "image_px", "spacing_mm", "burnt_in", "ct_windows", "window", "crop_foreground",
    "margin", "microns_per_px", "tile_px",
)  # fmt: skip
"""What of a manifest decides how pixels come about."""

ENOUGH = 5
"""Patients, or slides of nobody known, from which on the mean stain of their tiles is told on."""

COLUMNS = [
    "key", "patient", "patient_known", "site", "split", "label", "dims", "shape", "dtype",
    "shard", "offset", "nbytes", "digest", "mask", "boxes", "flags", "warnings", "tag_modality",
    "tag_kernel", "tag_slice_thickness_mm", "preprocessing", *FACTS, *PERSON.names,
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class OfNobodyKnown(Record):
    """An exam whose patient is not known, though it is known which exams share one (a slide)."""

    @property
    def patient_known(self) -> bool:
        """Say that the patient is not known."""
        return False


class Prepared(Source):
    """Exams of one data set; a volume may stand as its slices, for methods in 2-D."""

    @section
    class Config:
        """Which of the exams are used, and how."""

        path: Annotated[str, Field(min_length=1)]
        """The data set's folder (``--out`` of ``confrere client prepare``)."""

        slices: Literal["none", "axial", "coronal", "sagittal"] = "none"
        """Take volumes as their slices across this axis; none: as volumes."""

        slice_step: Annotated[int, Field(ge=1)] = 1
        """Take every so-manieth slice only."""

        dims: Literal[2, 3] | None = None
        """Pictures or volumes only; needed where a data set holds both and slices are not taken."""

        modality: tuple[str, ...] = ()
        """Only these, as the report calls them (ct, mr, ...); none: all."""

        leave_out: tuple[str, ...] = ("duplicate",)
        """Exams with one of these flags or warnings stay out: duplicate, near duplicate, saturated,
        brightness outlier, burnt-in text, gap between slices, ..."""

    def records(self) -> Sequence[Record]:
        """List the exams, or the slices; nothing but the catalog is read."""
        rows = [row for row in self._dataset.rows(COLUMNS) if self._wanted(row)]
        if not rows:
            raise DataError(
                f"no exam of the data set '{self.config.path}' is of the kind asked for."
            )
        sliced = self.config.slices != "none"
        if not sliced and len({row["dims"] for row in rows}) > 1:
            raise DataError(
                f"the data set '{self.config.path}' holds pictures and volumes: set dims: 2 or "
                "dims: 3, or take the volumes as slices: axial."
            )
        return [record for row in rows for record in self._records_of(row)]

    @property
    def preparation(self) -> Mapping[str, Any]:
        """Return what the data set was prepared to, as its manifest has it: of no patient.

        ``scaling`` lists the ways that occur in it, by modality; ``stain`` is the mean over the
        tiles of slides, of enough patients.
        """
        manifest = self._dataset.manifest
        told = {**manifest["plan"], **manifest["shaping"], **manifest["options"]}
        told |= manifest.get("slides", {})
        stain = dict(manifest.get("stain", {}))
        return {
            **{name: told[name] for name in TOLD if told.get(name) is not None},
            **({"stain": stain} if stain.pop("patients", 0) >= ENOUGH else {}),
            "slices": self.config.slices,
            "scaling": sorted(manifest.get("preprocessing", ())),
        }

    def fingerprint(self) -> Iterator[bytes]:
        """Yield what is chosen, then the catalog, which holds the digest of every image."""
        yield repr(self.config).encode()
        yield from content(self._dataset.catalog)

    @cached_property
    def _dataset(self) -> Dataset:
        return open_dataset(self.folder / Path(self.config.path).expanduser(), self.config.path)

    @cached_property
    def _shards(self) -> Shards:
        return Shards(self._dataset.folder / FOLDER)

    def _wanted(self, row: dict[str, Any]) -> bool:
        config = self.config
        return (
            config.dims in (None, row["dims"])
            and (not config.modality or row["tag_modality"] in config.modality)
            and not set(config.leave_out) & {*row["flags"], *row["warnings"]}
        )

    def _records_of(self, row: dict[str, Any]) -> Iterator[Record]:
        shape = tuple(row["shape"])
        image = partial(_image, self._shards, place_of(row), shape, row["dtype"])
        mask = partial(_mask, self._shards, row["mask"], shape[1:]) if row["mask"] else None
        if row["dims"] == 2 or self.config.slices == "none":
            whole = _record(row, row["key"], image, mask, digest=row["digest"])
            yield replace(whole, boxes=partial(_boxes, row["boxes"])) if row["boxes"] else whole
            return
        axis = AXES[self.config.slices]
        for number in range(0, shape[1 + axis], self.config.slice_step):
            part = partial(_slice, mask, axis, number) if mask else None
            cut = partial(_slice, image, 1 + axis, number)
            yield _record(row, f"{row['key']}#{number}", cut, part, across=axis)


def _spacing(row: dict[str, Any], across: int | None) -> tuple[float, ...]:
    """Return millimetres between stored voxels, of a slice's own axes where it lies *across* one.

    Empty unless the file told it, one for each axis: of what it did not tell 1 mm was assumed.
    """
    record = json.loads(row["preprocessing"] or "{}")
    told = (record.get("spacing_after_mm") or ()) if record.get("spacing_told") else ()
    if len(told) != row["dims"] or not all(step > 0 for step in told):
        return ()
    return tuple(float(step) for axis, step in enumerate(told) if axis != across)


def _record(
    row: dict[str, Any],
    name: str,
    decode: Any,
    mask: Any,
    *,
    digest: str | None = None,
    across: int | None = None,
) -> Record:
    # where nothing groups it, an exam stands for itself: its own name is its patient's
    make = Record if row["patient_known"] else OfNobodyKnown
    return make(
        name=name,
        decode=decode,
        mapped=True,
        spacing_mm=_spacing(row, across),
        patient=row["patient"],
        site=row["site"],
        split=row["split"],
        label=row["label"],
        mask=mask,
        facts={"digest": digest, **{name: row[name] for name in ("dtype", "tag_modality", *FACTS)}},
        about={name: str(row[column]) for name, column in ABOUT if row.get(column)},
    )


def _image(shards: Shards, place: Place, shape: tuple[int, ...], dtype: str) -> Pixels:
    try:
        return shards.image(place, shape, dtype)
    except DataError as fault:
        raise UnreadableImage(str(fault).rstrip(".")) from None


def _mask(shards: Shards, row: dict[str, Any], shape: tuple[int, ...]) -> Pixels:
    return _image(shards, place_of(row), shape, row["dtype"])


def _boxes(cell: str) -> list[Box]:
    """Return the boxes of a picture; an older Confrere kept them as its file had them."""
    if any(not box or not isinstance(box[0], str) for box in json.loads(cell)):
        raise UnreadableImage("boxes as an older version kept them: prepare the data set again")
    return read_boxes(cell)


def _slice(image: Any, axis: int, number: int) -> Pixels:
    volume = image()
    return volume[(slice(None),) * axis + (number,)]  # type: ignore[no-any-return]

"""How images were prepared before a run met them: what a run may demand, and what a card tells."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from confrere_common.errors import DataError, unknown
from confrere_common.section import section

WINDOWS: Mapping[str, tuple[float, float]] = {
    "wide": (0.0, 2000.0),
    "soft": (40.0, 400.0),
    "lung": (-600.0, 1500.0),
    "bone": (400.0, 1800.0),
    "brain": (40.0, 80.0),
    "liver": (60.0, 160.0),
}
"""Name -> centre and width in Hounsfield units, as radiologists set them."""

PERCENTILES: Mapping[str, tuple[float, float]] = {"mr": (0.5, 99.5), "pt": (0.0, 99.9)}
"""Modality -> what of its foreground becomes black and white."""

DEFAULT_PERCENTILES = (0.5, 99.5)

STEPS = (
    "volumes turned to run left to right, back to front, foot to head; air cut away where "
    "crop_foreground says so (ct above -500 HU, its largest region, a margin around it); values "
    "to 0 to 1 by hu_windows (a channel each: (value - centre) / width + 0.5, clipped), by the "
    "file's own VOI window or table (window: stored; radiographs, ultrasound, captures) or by "
    "percentiles; resampled bilinearly to spacing_mm (Z Y X), else shrunk to image_px; stored in "
    "16 bits (65535 is 1), pictures of 8 bits as they are; slides as tiles of tile_px at "
    "microns_per_px, or as they were scanned where that is coarser; their stain is measured "
    "(optical density, haematoxylin and eosin over tissue) and left as it is"
)
"""What ``confrere client prepare`` does, in its order."""

Millimetres = Annotated[float, Field(gt=0, le=100)]


@section
class Preparation:
    """What 'confrere client prepare' was told at every site; what is left out may be anything."""

    image_px: Annotated[int, Field(ge=8)] | None = None
    """Longer side of pictures, and of volumes where no spacing is given (--image-px)."""

    spacing_mm: tuple[Millimetres, Millimetres, Millimetres] | None = None
    """Z Y X distance of a volume's voxels (--spacing-mm)."""

    ct_windows: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Hounsfield windows, a channel each: wide, soft, lung, bone, brain, liver."""

    crop_foreground: bool | None = None
    """Whether the air around the patient is cut away."""

    margin: Annotated[float, Field(ge=0, le=0.5)] | None = None
    """How much air stays on each side."""

    window: Literal["stored", "percentile"] | None = None
    """Whether radiographs, ultrasound and captures go by their file's VOI window."""

    microns_per_px: Annotated[float, Field(gt=0)] | None = None
    """Resolution of a slide's tiles."""

    tile_px: Annotated[int, Field(ge=8)] | None = None
    """Side of a slide's tiles."""

    slices: Literal["none", "axial", "coronal", "sagittal"] | None = None
    """Whether volumes are taken as slices, and across which axis."""

    @field_validator("ct_windows")
    @classmethod
    def _known(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in names or ():
            if name not in WINDOWS:
                raise ValueError(unknown("window", name, WINDOWS))
        return names

    @model_validator(mode="after")
    def _demands_something(self) -> Self:
        if not self.stated():
            raise ValueError(
                "it demands nothing: name an option of confrere client prepare, as image_px: 256, "
                "or leave the section out"
            )
        return self

    def stated(self) -> Mapping[str, Any]:
        """Return what is demanded, as plain values."""
        every = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: plain(value) for name, value in every if value is not None}


def plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    return list(value) if isinstance(value, tuple | list) else value


class OtherPreparation(DataError):  # noqa: N818  (the code says it better)
    """Images were prepared otherwise than a run demands, or by nobody."""

    code = "other-preparation"


def must_be_prepared(actual: Mapping[str, Any] | None, wanted: Preparation | None) -> None:
    """Raise OtherPreparation unless images were prepared as demanded; *actual* None: by nobody."""
    if wanted is None:
        return
    if actual is None:
        raise OtherPreparation(
            f"the run wants images that were prepared so: {_said(wanted.stated())}. These were not "
            "prepared: bring them by confrere client prepare with these options."
        )
    if faults := differences(actual, wanted.stated()):
        raise OtherPreparation(
            f"the run wants images that were prepared otherwise: {'; '.join(faults)}. Prepare "
            "another data set with these options (confrere client prepare --out ...)."
        )


def demanded(wanted: Preparation | None) -> dict[str, Any] | None:
    """Return what a federation's card and report tell, which is what the run said; None if nothing.

    Guarantee: nothing of it comes from a site. It holds for all whose update was joined, since a
    site whose data set was prepared otherwise refuses.
    """
    if wanted is None:
        return None
    return {**wanted.stated(), "demanded": "by the run, of every site"}


def differences(actual: Mapping[str, Any], due: Mapping[str, Any]) -> list[str]:
    """Say in which options images were prepared otherwise than *due*, as a card has it."""
    pairs = [(field.name, plain(due.get(field.name))) for field in fields(Preparation)]
    return [
        f"{name} is {_text(plain(actual.get(name)))}, not {_text(value)}"
        for name, value in pairs
        if value is not None and plain(actual.get(name)) != value
    ]


def _said(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_text(value)}" for name, value in values.items())


def _text(value: Any) -> str:
    if value is None:
        return "not set"
    return str(value).lower() if isinstance(value, bool) else str(value)


def reproducible(prepared: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a card tells of a preparation: *prepared*, and the figures behind its names.

    ``prepared["scaling"]``, where it is known, lists the kinds that occur, by modality.
    """
    kinds = prepared.get("scaling")
    told = {**prepared, "steps": STEPS}
    windows = prepared.get("ct_windows") or ()
    if windows and (kinds is None or any("hu windows" in kind for kind in kinds)):
        told["hu_windows"] = {
            name: dict(zip(("centre", "width"), WINDOWS[name], strict=True)) for name in windows
        }
    if kinds is None or any("percentiles" in kind for kind in kinds):
        told["percentiles"] = {
            **{name: list(ends) for name, ends in PERCENTILES.items()},
            "other": list(DEFAULT_PERCENTILES),
        }
    return told

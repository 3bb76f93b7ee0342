"""The data sets that a hospital lends, each under a name: ``data.yaml`` in the site's folder.

A run from outside asks for a name; paths are known here alone.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from pydantic import Field

from confrere_client.data.cache import Progress
from confrere_client.data.catalog import check_patients
from confrere_client.data.images import Images, images_of
from confrere_client.place import source_at
from confrere_client.source import SOURCES, Record, Source, UnreadableImage, open_source
from confrere_common.augment.presets import PRESETS
from confrere_common.config import Choice, Run
from confrere_common.errors import ConfigError, DataError, unknown
from confrere_common.family import Named
from confrere_common.preparation import must_be_prepared
from confrere_common.section import section
from confrere_common.settings import check_settings, read_mapping
from confrere_common.storage import atomic_write

FILE = "data.yaml"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Of a data set: it is said outside, so that it should name nobody."""

TRIED = 8
"""Images that are decoded on trial when a data set is registered."""


@section
class Registered:
    """One data set that the hospital lends."""

    name: Annotated[str, Field(pattern=NAME)]
    """What a run calls it."""

    source: Choice
    """Where its images are and how they are read; it never leaves the hospital."""

    images: Annotated[int, Field(ge=1)]
    """Images that may be trained on, or else scored on, when it was registered."""

    patients: Annotated[int, Field(ge=1)]
    """Patients of whom these are."""

    unknown_patients: Annotated[int, Field(ge=0)] = 0
    """Images whose patient the source does not name: each counts as a patient of its own."""

    one_image_per_patient: bool = False
    """Whether somebody here vouches that no two images are of one patient. Without that, or a known
    patient for every image, a promise to patients cannot be kept, and private runs are refused."""

    only_scored: bool = False
    """Whether all were marked 'test': a model is scored on them where a run asks for that, and none
    is ever trained on."""

    modality: str | None = None
    """What kind of images they are."""

    only_site: str | None = None
    """Acquisition site to which it is restricted, where its table knows several."""


class NothingToTrain(DataError):  # noqa: N818  (the code says it better)
    """A data set has images, and none that may be trained on."""

    code = "no-labels"


def add(  # noqa: PLR0913  (an option each)
    folder: Path,
    name: str,
    path: Path | str,
    *,
    modality: str | None = None,
    source: str = "auto",
    only_site: str | None = None,
    replace: bool = False,
    one_image_per_patient: bool = False,
    knobs: Mapping[str, Any] | None = None,
) -> Registered:
    """Read enough of the images at *path* to count them, and enter them in the site's data.yaml.

    *source* is a member of the family or 'auto'; *knobs* are its own (``patient_column``, ...). A
    phantom has no path: give ''. DataError says what cannot be read or is registered already.
    """
    known = dict(registered(folder))
    _must_be_free(name, known, replace=replace)
    _must_be_modality(modality)
    named = source_at(path, source, knobs)
    _must_be_new(name, named, only_site, known)
    whole = open_source(named, Path())
    lent, only_scored = _lent(whole, only_site)
    _try_some(lent)
    entry = Registered(
        name=name,
        source=named,
        images=len(lent),
        patients=len({record.patient for record in lent}),
        unknown_patients=sum(not record.patient_known for record in lent),
        one_image_per_patient=one_image_per_patient,
        only_scored=only_scored,
        modality=modality,
        only_site=only_site,
    )
    _write(folder / FILE, {**known, name: entry})
    return entry


def _lent(whole: Source, only_site: str | None) -> tuple[Sequence[Record], bool]:
    """Return the records that may be trained on, or else those to score on and that it is so."""
    try:
        return Lent(whole, only_site=only_site).records(), False
    except NothingToTrain as fault:
        try:
            return Lent(whole, only_site=only_site, part="test").records(), True
        except DataError:
            raise fault from None


def registered(folder: Path) -> Mapping[str, Registered]:
    """Return name -> data set of the site in *folder*; DataError lists every fault of the file."""
    path = folder / FILE
    if not path.exists():
        return {}
    found: dict[str, Registered] = {}
    faults: list[str] = []
    # A DataError, whose text never leaves: the file holds paths.
    for name, plain in _plain(path).items():
        try:
            found[name] = check_settings({**_mapping(plain), "name": name}, Registered, name)
            SOURCES.configure(found[name].source)
        except ConfigError as fault:
            faults += [f"{name}: {text}" for text in fault.faults]
    if faults:
        raise DataError(str(ConfigError(faults, FILE)))
    return found


def dataset_of(run: Run) -> str | None:
    """Return the data set that a federated run names; None for the only one that there is.

    DataError unless the run takes its images from source 'site': no other may be asked for from
    outside, since it would bring its own path.
    """
    if run.data.source.name != "site":
        raise DataError(
            "a federated run names its data as data: {source: {name: site, dataset: NAME}}; this "
            f"one asks for the source '{printable(run.data.source.name)}'."
        )
    try:
        dataset: str | None = SOURCES.configure(run.data.source).dataset
    except ConfigError as fault:
        raise DataError(printable(" ".join(str(fault).split()), 300)) from None
    return dataset


def chosen(wanted: str | None, names: Iterable[str]) -> str:
    """Return which of *names* is meant; DataError when it is not there, or none is named of many.

    >>> chosen(None, ["derm"])
    'derm'
    """
    there = sorted(names)
    if not there:
        raise DataError("no data set is registered: confrere client data add NAME PATH.")
    if wanted is None and len(there) > 1:
        raise DataError(f"the run names no data set, and there are several: {', '.join(there)}.")
    if wanted is not None and wanted not in there:
        raise DataError(unknown("data set", wanted, there))
    return wanted or there[0]


def open_registered(entry: Registered, at_most: int | None = None, part: str = "train") -> Source:
    """Return the images of *entry* that may be trained on, at most so many; or those of 'test'."""
    whole = open_source(entry.source, Path())
    return Lent(whole, only_site=entry.only_site, at_most=at_most, part=part)


def images_for(
    entry: Registered,
    run: Run,
    cache: Path,
    *,
    at_most: int | None = None,
    part: str = "train",
    progress: Progress | None = None,
) -> Images:
    """Return what ``open_registered`` does, sized as *run* asks, from the cache.

    DataError when none can be read, or when the run wants other channels or axes than they have, or
    images that were prepared otherwise; the same of images that are only scored.
    """
    source = open_registered(entry, at_most, part)
    must_be_prepared(source.preparation, run.data.preparation)
    images = images_of(
        source,
        image_px=run.data.image_px,
        crop_px=run.data.crop_px,
        channels=run.data.channels,
        cache_dir=cache,
        progress=progress,
    )
    if run.data.dims not in (None, images.dims):
        raise DataError(
            f"the run asks for {run.data.dims}-D images; those of '{entry.name}' are "
            f"{images.dims}-D. Approve a run that fits them, or register others."
        )
    return images


class Lent(Source):
    """The part of a source that may be trained on, or its part 'test', which may be scored.

    Rows that the source marks 'train' where it marks any so, else all but those marked 'val' or
    'test'. Of more than *at_most*, those whose names have the lowest hashes: the same every time.
    """

    def __init__(
        self,
        whole: Source,
        *,
        only_site: str | None = None,
        at_most: int | None = None,
        part: str = "train",
    ) -> None:
        super().__init__(whole.config, whole.folder)
        self._whole = whole
        self._only_site = only_site
        self._at_most = at_most
        self._part = part

    def records(self) -> Sequence[Record]:
        """List the rows in the source's order; DataError when none is left."""
        every = self._whole.records()
        check_patients(every)
        ours = [record for record in every if self._only_site in (None, record.site)]
        if not ours:
            sites = sorted({record.site or "(none)" for record in every})
            raise DataError(unknown("acquisition site", self._only_site or "", sites))
        splits = {record.split for record in ours}
        allowed = {self._part} if self._part in splits or self._part != "train" else {""}
        training = [record for record in ours if record.split in allowed]
        if not training:
            if self._part != "train":
                raise DataError(f"no image is marked '{self._part}'.")
            raise NothingToTrain("every image is marked 'val' or 'test': none is left to train on.")
        return self._capped(training)

    @property
    def preparation(self) -> Mapping[str, Any] | None:
        """Return how the whole source was prepared."""
        return self._whole.preparation

    def fingerprint(self) -> Iterator[bytes]:
        """Yield what is chosen, then what the whole source yields."""
        yield repr((self._only_site, self._at_most, type(self._whole).__name__)).encode()
        if self._part != "train":
            yield self._part.encode()
        yield from self._whole.fingerprint()

    def _capped(self, records: list[Record]) -> list[Record]:
        if self._at_most is None or len(records) <= self._at_most:
            return records
        ranks = sorted(range(len(records)), key=lambda row: _hash(records[row].name))
        return [records[row] for row in sorted(ranks[: self._at_most])]


def printable(text: str, most: int = 60) -> str:
    """Return *text* from the network as a terminal may show it: one short line of plain marks."""
    plain = "".join(mark if mark.isprintable() else "?" for mark in text[: most + 1])
    return plain if len(plain) <= most else f"{plain[: most - 3]}..."


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()


def _must_be_free(name: str, known: Mapping[str, Registered], *, replace: bool) -> None:
    if re.fullmatch(NAME, name) is None:
        raise DataError(
            f"a data set cannot be called '{printable(name)}': up to 64 letters, digits, dots, "
            "dashes and underscores, beginning with a letter or digit. The name is said outside."
        )
    if name in known and not replace:
        raise DataError(f"a data set '{name}' is registered already: choose another, or --replace.")


def _must_be_new(
    name: str, named: Named, only_site: str | None, known: Mapping[str, Registered]
) -> None:
    """Refuse the same images under a second name: their patients would have two budgets."""
    for other in known.values():
        same = other.source.name == named.name and _place(other.source) == _place(named)
        apart = None not in (only_site, other.only_site) and only_site != other.only_site
        if same and not apart and other.name != name:
            raise DataError(
                f"these images are registered already, as '{other.name}': under two names their "
                "patients would have two privacy budgets. Use that name."
            )


def _place(source: Named) -> Any:
    return source.knobs.get("path", tuple(sorted(source.knobs.items(), key=str)))


def _must_be_modality(modality: str | None) -> None:
    if modality is not None and modality not in PRESETS:
        raise DataError(unknown("modality", modality, PRESETS))


def _try_some(records: Sequence[Record]) -> None:
    """Raise DataError when none of a few images, evenly spread, can be decoded."""
    rows = np.linspace(0, len(records) - 1, min(TRIED, len(records))).astype(int)
    faults: list[str] = []
    for row in rows:
        try:
            records[row].decode()
        except UnreadableImage as fault:
            faults.append(str(fault))
    if len(faults) == len(rows):
        why = "; ".join(sorted(set(faults)))
        raise DataError(
            f"none of {len(rows)} images tried can be read: {why}. Check the paths in the table, "
            "and that the files are PNG, JPEG, TIFF or BMP."
        )


def _plain(path: Path) -> dict[str, Any]:
    try:
        return read_mapping(path)
    except ConfigError as fault:
        raise DataError(str(fault)) from None


def _mapping(plain: Any) -> Mapping[str, Any]:
    if not isinstance(plain, dict) or "name" in plain:
        raise ConfigError(["is no data set: write source, images and patients under its name."])
    return {str(key): value for key, value in plain.items()}


def _write(path: Path, entries: Mapping[str, Registered]) -> None:
    plain = {name: _entry(entry) for name, entry in sorted(entries.items())}
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    atomic_write(path, f"# Data sets that this site lends. Nothing of it leaves.\n{text}".encode())


def _entry(entry: Registered) -> dict[str, Any]:
    plain = {key: value for key, value in asdict(entry).items() if key != "name"}
    return {**plain, "source": entry.source.as_dict()}

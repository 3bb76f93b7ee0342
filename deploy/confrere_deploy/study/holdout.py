"""Which patients only ever serve to measure: drawn before the federation starts, then fixed.

What the source says of its splits holds; what it leaves open is drawn by patient, each class and
each site in proportion. A class of three patients or more is in all three parts, unless the shares
leave it too few.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from confrere_client.data.catalog import Catalog
from confrere_common.errors import DataError, unknown
from confrere_deploy.split import Rows, patient_labels

Patients = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Holdout:
    """Rows of a catalog, ascending; no patient is in two parts."""

    train: Rows
    """For training, labelled or not; sites are made of these."""

    val: Rows
    """Labelled images on which a probe chooses its regularisation; may be empty."""

    test: Rows
    """Labelled images on which every figure is measured."""

    left_out: Rows
    """Images that are nowhere: unlabelled ones of held-out patients."""


def holdout(catalog: Catalog, test_share: float, val_share: float, seed: int) -> Holdout:
    """Return the three parts; *val_share* is of the patients that are left after the test.

    Without any label, val is empty and test holds images for measures that need none. A patient
    whom the source puts in two splits is in test rather than val, and in val rather than train.
    DataError when there are too few patients.
    """
    generator = np.random.default_rng(seed)
    test = _named_or_drawn(catalog, "test", np.empty(0, np.int64), test_share, generator)
    val = np.empty(0, np.int64)
    if (catalog.labels >= 0).any():
        val = np.setdiff1d(_named_or_drawn(catalog, "val", test, val_share, generator), test)
    parts = _parts(catalog, test, val)
    _checked(catalog, vars(parts))
    return parts


def without(catalog: Catalog, held: Holdout, sites: Sequence[str]) -> tuple[Holdout, Rows]:
    """Return the parts without what was acquired at *sites*, and the test images of these.

    Who is held out of the other sites does not depend on it. DataError for a site that the data do
    not name, or where nobody is left.
    """
    for site in sites:
        if site not in catalog.sites:
            raise DataError(unknown("acquisition site", site, sorted({*catalog.sites} - {""})))
    away = np.isin(catalog.sites, sites)

    def here(rows: Rows) -> Rows:
        return rows[~away[rows]]

    unseen = held.test[away[held.test]]
    every = np.concatenate([held.left_out, held.train, held.val])
    left_out = np.union1d(here(held.left_out), every[away[every]])
    parts = {"train": here(held.train), "val": here(held.val), "test": here(held.test)}
    _checked(catalog, parts)
    return Holdout(**parts, left_out=left_out), unseen


def _named_or_drawn(
    catalog: Catalog, split: str, taken: Patients, share: float, generator: np.random.Generator
) -> Patients:
    """Return the patients of *split* as the source names them, else a draw from who is free."""
    usable = _usable(catalog)
    named = np.unique(catalog.patients[usable & (catalog.splits == split)])
    if len(named):
        return named
    reserved = np.unique(catalog.patients[np.isin(catalog.splits, ["test", "val"])])
    free = np.setdiff1d(catalog.patients[usable], np.union1d(reserved, taken))
    return _drawn(catalog.select(np.isin(catalog.patients, free)), share, generator)


def _usable(catalog: Catalog) -> NDArray[np.bool_]:
    """Say which images can serve to measure: labelled ones, or all where nothing is labelled."""
    known = catalog.labels >= 0
    return known if known.any() else np.ones(len(catalog), np.bool_)


def _drawn(catalog: Catalog, share: float, generator: np.random.Generator) -> Patients:
    """Return a share of the patients of each class, in proportion over its sites."""
    if share <= 0 or not len(catalog):
        return np.empty(0, np.int64)
    patients, labels = patient_labels(catalog)
    site_codes = np.unique(catalog.sites, return_inverse=True)[1]
    sites = site_codes[np.unique(catalog.patients, return_index=True)[1]]
    mixed = generator.permutation(len(patients))
    parts = []
    for label in np.unique(labels):
        ours = mixed[labels[mixed] == label]
        ours = ours[np.argsort(sites[ours], kind="stable")]
        parts.append(patients[_every_so_many(ours, share, generator)])
    return np.sort(np.concatenate(parts))


def _every_so_many(
    ordered: NDArray[np.int64], share: float, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Return a share of *ordered* at even distances: as many from each stretch of it.

    At least one and never all, where there are two or more; none of a single one.
    """
    wanted = min(max(round(len(ordered) * share), 1), len(ordered) - 1)
    if wanted < 1:
        return ordered[:0]
    places = (np.arange(wanted) + generator.random()) * len(ordered) / wanted
    return ordered[places.astype(np.int64)]


def _parts(catalog: Catalog, test: Patients, val: Patients) -> Holdout:
    usable = _usable(catalog)
    in_test, in_val = np.isin(catalog.patients, test), np.isin(catalog.patients, val)
    # An image that the source marks for measuring must not be trained on, even without a label.
    marked = np.isin(catalog.splits, ["test", "val"])
    train = ~in_test & ~in_val & ~np.isin(catalog.patients, catalog.patients[marked])
    parts = {"train": train, "val": in_val & usable, "test": in_test & usable}
    nowhere = ~np.any(list(parts.values()), axis=0)
    return Holdout(
        **{name: np.flatnonzero(mask) for name, mask in parts.items()},
        left_out=np.flatnonzero(nowhere),
    )


def _checked(catalog: Catalog, parts: Mapping[str, Rows]) -> None:
    """Raise DataError when a part that is needed is empty."""
    usable = _usable(catalog)
    kind = "labelled patients" if (catalog.labels >= 0).any() else "patients"
    count = len(np.unique(catalog.patients[usable]))
    if not len(parts["test"]):
        raise DataError(
            f"no patient can be held out for the test: there are {count} {kind}, and a class needs "
            "at least two of them to give one. Bring more patients, or label more of them."
        )
    if not usable[parts["train"]].any():
        raise DataError(
            f"nobody is left to learn from: of {count} {kind} all are held out by the source's "
            "splits or by data.leave_out. Mark some as 'train', or leave out less."
        )

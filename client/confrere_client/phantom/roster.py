"""Who is in the phantom: which site each patient visits, with which diagnosis, for which images.

Shapes: S sites, K classes, P patients, I images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HEALTHY_IMAGE = 0.2
"""How many images of an ill patient show nothing of the illness."""


@dataclass(frozen=True, kw_only=True)
class Roster:
    """Sites and diagnoses of the P patients; patients and classes of the I images, as numbers."""

    sites: NDArray[np.int64]
    diagnoses: NDArray[np.int64]
    patients: NDArray[np.int64]
    classes: NDArray[np.int64]


def enrol(
    rng: np.random.Generator, *, images: int, patients: int, prevalence_SK: NDArray[np.float64]
) -> Roster:
    """Return a roster in which every patient has at least one image, and some have many."""
    share_S = rng.dirichlet(np.full(len(prevalence_SK), 12.0))
    site_P = np.repeat(np.arange(len(share_S)), apportion(share_S, patients, at_least_one=True))
    diagnosis_P = np.concatenate(
        [
            _diagnoses(rng, row, int(np.sum(site_P == site)))
            for site, row in enumerate(prevalence_SK)
        ]
    )
    weight_P = rng.gamma(2.0, size=patients)
    patient_I = np.repeat(np.arange(patients), apportion(weight_P, images, at_least_one=True))
    spared_I = rng.uniform(size=images) < HEALTHY_IMAGE
    class_I = np.where(spared_I, 0, diagnosis_P[patient_I])
    return Roster(sites=site_P, diagnoses=diagnosis_P, patients=patient_I, classes=class_I)


def _diagnoses(
    rng: np.random.Generator, part_K: NDArray[np.float64], count: int
) -> NDArray[np.int64]:
    return rng.permutation(np.repeat(np.arange(len(part_K)), apportion(part_K, count)))


def apportion(
    weights: Sequence[float] | NDArray[np.float64], total: int, *, at_least_one: bool = False
) -> NDArray[np.int64]:
    """Return whole numbers that sum to *total* in the proportions of *weights*.

    The largest remainders are rounded up (Hamilton's method).
    """
    floor = len(weights) if at_least_one else 0
    exact = np.asarray(weights) / np.sum(weights) * (total - floor)
    whole = np.floor(exact).astype(np.int64)
    whole[np.argsort(whole - exact, kind="stable")[: total - floor - int(whole.sum())]] += 1
    return whole + (1 if at_least_one else 0)

"""Sites differ in prevalence: each class has its own Dirichlet shares, https://arxiv.org/abs/1909.06335.

A patient's class is the one that most of the images have; who has no label is a class of its own.
"""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from confrere_client.data.catalog import Catalog
from confrere_common.section import section
from confrere_deploy.split import Rows, by_patient, patient_labels, require_patients, shared_out


@section
class Config:
    """How unlike in prevalence the sites are."""

    sites: Annotated[int, Field(ge=1)] = 4
    """Number of sites."""

    alpha: Annotated[float, Field(ge=0.001)] = 0.5
    """Concentration of the shares: 0.1 gives a site one or two classes, 100 makes sites alike."""

    min_patients: Annotated[int, Field(ge=1)] = 1
    """Patients that every site has; who lacks some is given them by the site with the most."""


def dirichlet(catalog: Catalog, config: Config, generator: np.random.Generator) -> dict[str, Rows]:
    """Return sites that differ in their shares of the classes, and so in size."""
    require_patients(catalog, config.sites, config.min_patients)
    patients, labels = patient_labels(catalog)
    groups: list[list[int]] = [[] for _ in range(config.sites)]
    for label in np.unique(labels):
        ours = generator.permutation(patients[labels == label])
        shares = generator.dirichlet(np.full(config.sites, config.alpha))
        for group, piece in zip(groups, shared_out(ours, shares), strict=True):
            group.extend(piece.tolist())
    return by_patient(catalog, _filled(groups, config.min_patients, generator))


def _filled(
    groups: list[list[int]], least: int, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Move patients from the largest site to each that has fewer than *least*."""
    for group in groups:
        while len(group) < least:
            largest = max(groups, key=len)
            group.append(largest.pop(int(generator.integers(len(largest)))))
    return [np.array(group, np.int64) for group in groups]

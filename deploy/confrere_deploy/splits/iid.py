"""Patients are dealt out at random, as many to each site: the sites are alike."""

from typing import Annotated

import numpy as np
from pydantic import Field

from confrere_client.data.catalog import Catalog
from confrere_common.section import section
from confrere_deploy.split import Rows, by_patient, require_patients


@section
class Config:
    """How many sites there are."""

    sites: Annotated[int, Field(ge=1)] = 4
    """Number of sites."""


def iid(catalog: Catalog, config: Config, generator: np.random.Generator) -> dict[str, Rows]:
    """Return sites whose numbers of patients differ by one at most."""
    require_patients(catalog, config.sites)
    patients = generator.permutation(np.unique(catalog.patients))
    return by_patient(catalog, np.array_split(patients, config.sites))

"""Sites differ in size: their shares of the patients are drawn from a Dirichlet distribution."""

from typing import Annotated

import numpy as np
from pydantic import Field

from confrere_client.data.catalog import Catalog
from confrere_common.section import section
from confrere_deploy.split import Rows, by_patient, require_patients, shared_out


@section
class Config:
    """How unlike in size the sites are."""

    sites: Annotated[int, Field(ge=1)] = 4
    """Number of sites."""

    alpha: Annotated[float, Field(ge=0.001)] = 1.0
    """Concentration of the shares: 0.1 gives one site almost all, 100 makes them equal."""

    min_patients: Annotated[int, Field(ge=1)] = 1
    """Patients that even the smallest site has."""


def quantity(catalog: Catalog, config: Config, generator: np.random.Generator) -> dict[str, Rows]:
    """Return sites of unlike size, each a random sample of the patients."""
    require_patients(catalog, config.sites, config.min_patients)
    patients = generator.permutation(np.unique(catalog.patients))
    shares = generator.dirichlet(np.full(config.sites, config.alpha))
    return by_patient(catalog, shared_out(patients, shares, config.min_patients))

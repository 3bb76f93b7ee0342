"""Each patient stays where the images were acquired: the site column of the data."""

import numpy as np

from confrere_client.data.catalog import Catalog
from confrere_common.errors import ConfigError
from confrere_common.family import NoKnobs
from confrere_deploy.split import Rows


def natural(catalog: Catalog, config: NoKnobs, generator: np.random.Generator) -> dict[str, Rows]:  # noqa: ARG001
    """Return the sites of the catalog; ConfigError where an image has none."""
    unknown = int((catalog.sites == "").sum())
    if unknown:
        raise ConfigError(
            [
                f"data.split is natural, but {unknown} of {len(catalog)} images have no site: "
                "fill the site column, or choose iid, dirichlet or quantity."
            ]
        )
    _must_keep_patients_whole(catalog)
    return {str(site): np.flatnonzero(catalog.sites == site) for site in np.unique(catalog.sites)}


def _must_keep_patients_whole(catalog: Catalog) -> None:
    pairs = np.unique(np.stack([catalog.patients, _codes(catalog)]), axis=1)
    torn = pairs.shape[1] - catalog.patient_count
    if torn:
        raise ConfigError(
            [
                f"data.split is natural, but {torn} of {catalog.patient_count} patients have "
                "images at more than one site: give each to one site, or choose another split."
            ]
        )


def _codes(catalog: Catalog) -> Rows:
    return np.asarray(np.unique(catalog.sites, return_inverse=True)[1], np.int64)

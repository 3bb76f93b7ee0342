"""What a private run will cost the patients of each site, and whether it can learn at all."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from confrere_client.data.catalog import Catalog, catalog_of
from confrere_client.source import open_source
from confrere_common.config import Run
from confrere_common.errors import PrivacyError
from confrere_common.model import outline
from confrere_common.privacy.terms import HOPELESS, Terms, terms
from confrere_deploy.split import spread
from confrere_deploy.study.holdout import holdout, without

SHOWN = 12
"""Sites, and rounds of a site, that are listed one by one."""


def rows(run: Run, patients: Mapping[str, int], parameters: int) -> Iterator[tuple[str, str]]:
    """Yield title and text of each line of a plan; nothing for a run without privacy."""
    if run.privacy is None:
        return
    yield (
        "privacy",
        f"epsilon {run.privacy.epsilon:g}, delta {run.privacy.delta:g} for each patient of a site; "
        "a patient of two sites pays at both",
    )
    agreed: dict[str, Terms] = {}
    for site, count in patients.items():
        try:
            agreed[site] = terms(run, count)
        except PrivacyError as fault:
            yield f"privacy, {site}", f"it cannot take part: {fault}"
    for site, found in list(agreed.items())[:SHOWN]:
        yield f"privacy, {site}", _of_site(found, parameters)
    if len(agreed) > SHOWN:
        yield "", f"and {len(agreed) - SHOWN} more sites"
    worst = max((found.noise_to_signal(parameters) for found in agreed.values()), default=0.0)
    if worst > HOPELESS:
        yield "warning", _hopeless(worst, parameters)


def patients_at(catalog: Catalog, sites: Mapping[str, NDArray[np.int64]]) -> Mapping[str, int]:
    """Return how many patients each site trains on."""
    return {site: len(np.unique(catalog.patients[rows])) for site, rows in sites.items()}


def listed_patients(run: Run, folder: Path) -> Mapping[str, int]:
    """Return how many patients each simulated site would train on; no image is decoded."""
    catalog = catalog_of(open_source(run.data.source, folder).records())
    held = holdout(catalog, run.data.test_share, run.data.val_share, run.data.seed)
    held, _ = without(catalog, held, run.data.leave_out)
    return patients_at(catalog, spread(run.data, catalog, held.train))


def parameters_of(run: Run) -> int:
    """Return how many parameters get noise; no memory is taken. Open channels count as one."""
    data = replace(run.data, channels=run.data.channels or 1, dims=run.data.dims or 2)
    model = outline(replace(run, data=data))
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _of_site(found: Terms, parameters: int) -> str:
    return (
        f"{found.patients} patients, sampling rate {found.rate:.4g}, noise multiplier "
        f"{found.noise:.4g}, {found.steps} steps a round; epsilon {_course(found)}; noise over "
        f"signal {found.noise_to_signal(parameters):.1f}"
    )


def _course(found: Terms) -> str:
    """Return epsilon after each round, or after some of many."""
    places = np.unique(np.linspace(1, found.rounds, min(found.rounds, SHOWN)).round().astype(int))
    told = [f"{found.spent(int(place)):.2f}" for place in places]
    if found.rounds <= SHOWN:
        return f"after each round {', '.join(told)}"
    pairs = (f"{value} ({place})" for place, value in zip(places, told, strict=True))
    return f"after rounds {', '.join(pairs)}"


def _hopeless(worst: float, parameters: int) -> str:
    return (
        f"in a step the noise outweighs the signal of {parameters / 1e6:.2f} M parameters "
        f"{worst:.0f} times; above {HOPELESS:.0f} training has not been seen to work. Draw more "
        "patients a step, take a smaller encoder, allow more epsilon, or start from an encoder "
        "trained on public data"
    )

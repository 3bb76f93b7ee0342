"""Groups of images by what is known of patient and acquisition: sex, age band, vendor, kernel ...

Shapes: N images.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from confrere_client.demography import BANDS, sex_of, years_of
from confrere_client.evaluation.fairness import age_bands
from confrere_client.source import FACTORS, open_source
from confrere_common.family import Named

Groups = NDArray[np.str_]

SLICES = ((1.5, "under 1.5 mm"), (3.0, "1.5 to 3 mm"), (5.0, "3 to 5 mm"))
"""A slice thinner than so much is called so."""
THICK = "5 mm and over"
LONGEST = 40
"""Letters of a name that a report shows."""


def groups_of(source: Named, folder: Path, names: Sequence[str]) -> Mapping[str, Groups]:
    """Return factor -> the group of each image, "" where it is not known.

    *names* are the images' own, in their order; a factor that divides them into fewer than two
    groups is left out.
    """
    about = {record.name: record.about for record in open_source(source, folder).records()}
    found = {}
    for factor in FACTORS:
        written = [about.get(str(name), {}).get(factor, "") for name in names]
        groups_N = OF[factor](written)
        if len(set(groups_N[groups_N != ""])) > 1:
            found[factor] = groups_N
    return found


def sexes(written: Sequence[str]) -> Groups:
    """Return 'female', 'male', 'other' or ''.

    >>> sexes(["F", "male", "?"]).tolist()
    ['female', 'male', '']
    """
    return np.array([sex_of(one) for one in written], np.str_)


def ages(written: Sequence[str]) -> Groups:
    """Return the group of each age in years, or of each band of a prepared data set.

    >>> ages(["52.0", "007Y", "003M", "old", "60-69", "90+"]).tolist()
    ['40-59', '0-17', '0-17', '', '60-79', '80+']
    """
    return age_bands(np.array([_years(one.strip()) for one in written], np.float64))


def slices(written: Sequence[str]) -> Groups:
    """Return the band of each slice thickness in mm.

    >>> slices(["1.0", "3", "x", "-2"]).tolist()
    ['under 1.5 mm', '3 to 5 mm', '', '']
    """
    return np.array([_thickness(one) for one in written], np.str_)


def texts(written: Sequence[str]) -> Groups:
    """Return names as they are, in small letters."""
    return np.array([" ".join(one.lower().split())[:LONGEST] for one in written], np.str_)


OF: Mapping[str, Callable[[Sequence[str]], Groups]] = {
    "sex": sexes, "age": ages, "vendor": texts, "kernel": texts, "slice_thickness_mm": slices,
}  # fmt: skip
"""Factor -> what makes groups of what is written."""


def _years(one: str) -> float:
    """Return an age; of a kept band where it begins, since no group ends within one."""
    return float(re.split(r"[-+]", one)[0]) if one in BANDS else years_of(one)


def _thickness(one: str) -> str:
    try:
        value = float(one)
    except ValueError:
        return ""
    if not 0 < value < np.inf:
        return ""
    return next((name for limit, name in SLICES if value < limit), THICK)

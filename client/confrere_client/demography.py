"""Sex and age: as a table writes them, and the little of it that a prepared data set keeps."""

import re
from collections.abc import Mapping
from itertools import pairwise

SEXES: Mapping[str, str] = {
    "m": "male", "male": "male", "f": "female", "female": "female", "w": "female",
    "o": "other", "other": "other",
}  # fmt: skip
"""How people and DICOM write a sex -> how we do."""

AGE = re.compile(r"0*(\d{1,3})(?:\.\d+)?\s*Y?", re.IGNORECASE)
"""Years, also as DICOM writes them (045Y); months, weeks and days are an age under 18."""

YOUNG = re.compile(r"\d{3}[MWD]", re.IGNORECASE)
OLDEST = 120

STARTS = (0, 10, 18, 30, 40, 50, 60, 70, 80, 90)
"""Years at which a kept band begins: decades, parted where a child becomes an adult. All of 90 and
over are one, for there are few of them (as HIPAA's safe harbor has it, 45 CFR 164.514(b)(2))."""

BANDS = (*(f"{low}-{high - 1}" for low, high in pairwise(STARTS)), f"{STARTS[-1]}+")
KEPT: Mapping[str, frozenset[str]] = {
    "sex": frozenset(SEXES.values()),
    "age": frozenset(BANDS),
}
"""Column -> the only values that a data set can hold of it."""


def sex_of(written: str) -> str:
    """Return 'female', 'male' or 'other'; '' for anything else.

    >>> sex_of("F"), sex_of("diverse")
    ('female', '')
    """
    return SEXES.get(written.strip().lower(), "")


def years_of(written: str) -> float:
    """Return an age in years; NaN where it is none.

    >>> years_of("045Y"), years_of("003M"), years_of("1961-02-03")
    (45.0, 0.25, nan)
    """
    one = written.strip()
    if YOUNG.fullmatch(one):
        return 0.0 if one[-1].upper() != "M" else int(one[:-1]) / 12
    found = AGE.fullmatch(one)
    return float(found[1]) if found else float("nan")


def band_of(written: str) -> str:
    """Return the band of an age, or the band itself; '' for anything else: a date is no age.

    >>> band_of("67"), band_of("104"), band_of("60-69"), band_of("1961-02-03")
    ('60-69', '90+', '60-69', '')
    """
    if written.strip() in BANDS:
        return written.strip()
    years = years_of(written)
    if not 0 <= years <= OLDEST:
        return ""
    return next(BANDS[at] for at in reversed(range(len(STARTS))) if years >= STARTS[at])


def kept_of(column: str, written: str) -> str:
    """Return what a data set keeps of a cell of *column* ('sex' or 'age'): one of ``KEPT``, or ''.

    Guarantee: no exact age, date or free text of a table enters a data set by these columns.
    """
    return sex_of(written) if column == "sex" else band_of(written)

"""What an evaluation shall find out, beside what the run says."""

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from confrere_client.evaluation.fairness import SMALLEST
from confrere_common.errors import ConfigError
from confrere_common.finetune import Finetune

Labels = float | str
"""A share of each class's patients, or 'N per class'."""

FRACTIONS = "0.01,0.1,1.0"


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """Which parts the evaluation has; figures, calibration and groups are always part of it."""

    encoders: tuple[Path, ...] = ()
    """Encoders that are compared, each with its card beside it."""

    curve: tuple[Labels, ...] = ()
    """Labels to learn from, one training each; empty: no curve."""

    leave_one_site_out: bool = False
    robustness: bool = False
    pictures: bool = True

    smallest: int = field(default=SMALLEST)
    """Patients below which a group is not spoken of."""


def labels_in(text: str) -> tuple[Labels, ...]:
    """Return the amounts of labels that a person wrote; ConfigError with every fault.

    >>> labels_in("0.1, 1, 4 per class")
    (0.1, 1.0, '4 per class')
    """
    found: list[Labels] = []
    faults = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(Finetune(labels=_number(part)).labels)
        except ValidationError:
            faults.append(
                f"'{part}' is no amount of labels: give a share of the patients, above 0 and 1 at "
                "most, or 'N per class'"
            )
    if not found and not faults:
        faults.append("it names no amount: give some, such as 0.01,0.1,1.0")
    if faults:
        raise ConfigError(faults, "--labels")
    return tuple(dict.fromkeys(found))


def _number(text: str) -> Labels:
    try:
        return float(text)
    except ValueError:
        return text

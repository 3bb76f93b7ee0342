"""The error tree: what a person may meet, each with the value, the limit and what to do.

ConfrereError
├── ConfigError        a run's YAML has faults; all of them are listed
├── DataError          images or labels cannot serve the run
├── CheckpointError    a saved state is missing, altered, or belongs to another run
├── TrainingError      a site's round could not be computed
├── ExchangeError      a task or an update does not fit the model
├── PrivacyError       a promise to patients would be broken, or cannot be shown to hold
└── RoundError         a round has too few valid answers
"""

import difflib
from collections.abc import Iterable


class ConfrereError(Exception):
    """A fault that its message explains to the person who can mend it."""


class ConfigError(ConfrereError):
    """A run cannot start as written; ``faults`` holds one sentence for each thing to mend."""

    def __init__(self, faults: Iterable[str], where: str = "the run") -> None:
        self.faults = tuple(faults)
        listed = "\n".join(f"  - {fault}" for fault in self.faults)
        count = f"{len(self.faults)} faults" if len(self.faults) != 1 else "1 fault"
        super().__init__(f"{where} has {count}:\n{listed}")


class DataError(ConfrereError):
    """The images at hand cannot serve the run."""


class CheckpointError(ConfrereError):
    """A saved state is missing, damaged, or of another run."""


class TrainingError(ConfrereError):
    """A site could not compute its round."""


class ExchangeError(ConfrereError):
    """What came over the wire does not fit what was agreed."""


class PrivacyError(ConfrereError):
    """A promise to patients would be broken, or cannot be shown to hold; nothing was released."""

    def __init__(self, text: str, code: str = "privacy") -> None:
        super().__init__(text)
        self.code = code
        """What may be said of it outside: a key of ``codes.CODES``."""


class RoundError(ConfrereError):
    """A round cannot be closed: too few sites answered validly."""


def unknown(noun: str, name: str, known: Iterable[str]) -> str:
    """Say that *name* is no known *noun*, guess what was meant, and list what there is."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    guess = f": did you mean '{near[0]}'?" if near else "."
    return f"unknown {noun} '{name}'{guess} Known: {', '.join(names)}."

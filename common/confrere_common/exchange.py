"""What a server asks and what a site answers, as values; ``wire`` makes Flower records of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from confrere_common.weights import Weights

Part: TypeAlias = Literal["test", "val"]
Purpose: TypeAlias = Literal["round", "evaluation", "validation"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One round's work, the same for every site asked."""

    run: str
    """The effective run as canonical JSON (``config.dump``): the site builds its model from it."""

    round: int
    """1 for the first."""

    seed: int
    """The seed of this repetition of the run."""

    weights: Weights
    """The shared weights as the round starts."""

    evaluate: bool = False
    """Whether these weights, joined in that round, are to be scored and not trained."""

    part: Part = "test"
    """Which patients they are then scored on: 'val' are those by whom a round is chosen."""

    @property
    def purpose(self) -> Purpose:
        """Return what is asked for."""
        return ("validation" if self.part == "val" else "evaluation") if self.evaluate else "round"


@dataclass(frozen=True, kw_only=True)
class Update:
    """What a site learned in a round."""

    site: str
    round: int
    delta: Weights
    """Shared weights after training minus before."""

    images: int
    """Images that the site trained on: its weight in a mean."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    """loss, seconds, rankme, feature_std, uniformity, alignment, ... of the site's round."""

    description: str = ""
    """What a site tells of its images (``describe``) or of a model's scores on them (``judged``,
    ``validated``), where nothing is learned."""

    marks: bytes = field(default=b"", repr=False)
    """Salted hashes of images (``marks``); empty where run or policy want none."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a site has no update for a round; the reason never names a patient or a path."""

    site: str
    round: int
    reason: str


Answer: TypeAlias = Update | Refusal

Ask: TypeAlias = Callable[[Sequence[str], Task], Iterable[Answer]]
"""Bring *task* to the sites and yield what they answer, as it comes: Flower, or a plain call."""

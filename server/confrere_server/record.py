"""What the server remembers of a round: who took part, what they reported, what it cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class SiteRecord:
    """One site's part in a round."""

    site: str
    images: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    refused: str = ""
    """Why it has no part in the joined update; empty when it has."""


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """One round."""

    round: int
    sites: tuple[SiteRecord, ...]
    bytes_up: int
    bytes_down: int
    seconds: float
    void: str = ""
    """Why the global weights did not move in this round; empty when they did."""

    @property
    def loss(self) -> float | None:
        """Return the mean loss over the sites that took part, each weighing as its images."""
        told = [s for s in self.sites if not s.refused and "loss" in s.metrics]
        images = sum(site.images for site in told)
        return sum(s.metrics["loss"] * s.images for s in told) / images if images else None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        # Not asdict, which copies every figure deeply: a state holds all rounds of all sites.
        sites = [{**vars(site), "metrics": dict(site.metrics)} for site in self.sites]
        return {**vars(self), "sites": sites}


def read_record(plain: Mapping[str, Any]) -> RoundRecord:
    """Return the record that ``as_dict`` wrote."""
    sites: Sequence[Mapping[str, Any]] = plain["sites"]
    return RoundRecord(**{**plain, "sites": tuple(SiteRecord(**site) for site in sites)})

"""A plan: a proposal as the site keeps it, with what a person there decided on it."""

import json
from dataclasses import dataclass
from typing import Literal, TypeAlias

from confrere_common.config import Run
from confrere_common.errors import ConfigError, ExchangeError
from confrere_common.loading import COMMON_FAMILIES, parse_run
from confrere_common.proposal import Proposal

Answer: TypeAlias = Literal["approve", "deny"]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a person at the site decided."""

    decision: Answer
    who: str
    when: str
    why: str

    digest: str
    """Of what was decided on: ``Proposal.digest``."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A proposal as the site keeps it."""

    proposal: Proposal
    received: str
    """When it came first, UTC."""

    decision: Decision | None = None

    @property
    def digest(self) -> str:
        """Return what an approval is bound to."""
        return self.proposal.digest


def run_of(proposal: Proposal) -> Run:
    """Return the run in a proposal; ExchangeError, without its text, when it is no sound run."""
    try:
        plain = json.loads(proposal.run)
        if isinstance(plain, dict):
            return parse_run(plain, COMMON_FAMILIES)
    except (ConfigError, ValueError, TypeError, RecursionError, AttributeError):
        pass
    raise ExchangeError(
        f"the run of the plan '{proposal.run_id}' cannot be read by this version of confrere."
    )

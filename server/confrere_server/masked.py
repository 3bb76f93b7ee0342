"""A round under secure aggregation, as the rounds see it: a cohort in, one joined update out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from confrere_common.config import Run
from confrere_common.errors import ConfigError, RoundError
from confrere_common.exchange import Task, Update
from confrere_common.secagg.messages import Params, Verify, digest_of_run
from confrere_common.secagg.section import (
    SITES_AT_LEAST,
    SITES_AT_MOST,
    SecureAggregation,
    bits_within,
    threshold_of,
)
from confrere_common.weights import count, weights_digest
from confrere_server.admission import weight_cap
from confrere_server.record import SiteRecord
from confrere_server.rule import RULES
from confrere_server.unmask import Carry, Talk, start_talk, sum_of

WEIGHT_AT_MOST = 2**22
"""Images that a site counts for at most, so that no sum of weights wraps around."""


@dataclass(frozen=True, kw_only=True)
class Veil:
    """What a coordinator needs beside a transport to hold masked rounds."""

    carry: Carry
    verify: Verify
    roster: str
    """SHA-256 of the roster that is pinned at every site."""

    attempt: Callable[[], int]
    """A number larger than at any earlier call, also before a restart: the time in nanoseconds."""


@dataclass(frozen=True, kw_only=True)
class Masked:
    """What became of a masked round."""

    joined: Update | None
    """The mean of all survivors, as the update of one site that has all their images."""

    void: str
    records: tuple[SiteRecord, ...]
    bytes_up: int
    bytes_down: int


def must_be_maskable(run: Run) -> None:
    """Raise ConfigError when the run asks for secure aggregation and a rule that can't have it."""
    if run.secure_aggregation is None:
        return
    name = run.federation.rule.name
    if not RULES.member(name).sum_only:
        able = [rule for rule in RULES.names() if RULES.member(rule).sum_only]
        raise ConfigError(
            [
                f"rule '{name}' looks at single updates, and secure_aggregation shows only their "
                f"sum: choose federation.rule {' or '.join(able)}, or leave out "
                "secure_aggregation."
            ]
        )
    if run.federation.limits.clip_ratio is not None or run.federation.limits.norm is not None:
        raise ConfigError(
            [
                "federation.limits.clip_ratio and norm look at single updates, and "
                "secure_aggregation shows only their sum: leave one of the two out. "
                "(secure_aggregation.clip bounds what a site that keeps to the protocol sends.)"
            ]
        )


def must_hide(run: Run, cohort: int) -> None:
    """Raise ConfigError when rounds of so many sites are too small, or too large, for masks."""
    if run.secure_aggregation is None or SITES_AT_LEAST <= cohort <= SITES_AT_MOST:
        return
    raise ConfigError(
        [
            f"secure_aggregation among {cohort} sites: it takes {SITES_AT_LEAST} to "
            f"{SITES_AT_MOST} in a round, since a sum of two shows each of them the other's "
            "update. Raise federation.cohort, let more sites join, or leave out "
            "secure_aggregation."
        ]
    )


def join_masked(
    run: Run, task: Task, cohort: Sequence[str], veil: Veil, enrolled: Mapping[str, int]
) -> Masked:
    """Hold one masked round; a void one says why and still names every site."""
    must_be_maskable(run)
    must_hide(run, len(cohort))
    talk = start_talk(params_of(run, task, cohort, veil, enrolled), veil.carry, veil.verify)
    try:
        found = sum_of(talk, task)
    except RoundError as fault:
        return _told(talk, cohort, (), None, str(fault))
    joined = Update(site="", round=task.round, delta=found.delta, images=found.images, metrics={})
    return _told(talk, cohort, found.sites, joined, "")


def params_of(
    run: Run, task: Task, cohort: Sequence[str], veil: Veil, enrolled: Mapping[str, int]
) -> Params:
    """Return all that a masked round is about."""
    section = run.secure_aggregation or SecureAggregation()
    return Params(
        run=digest_of_run(task.run),
        seed=task.seed,
        round=task.round,
        attempt=veil.attempt(),
        roster=veil.roster,
        weights=weights_digest(task.weights),
        sites=tuple(sorted(cohort)),
        threshold=threshold_of(section.threshold, len(cohort)),
        entries=count(task.weights),
        bits=bits_within(section.bits, len(cohort)),
        clip=section.clip,
        weight_max=_weight_max(run, section, cohort, enrolled),
    )


def _weight_max(
    run: Run, section: SecureAggregation, cohort: Sequence[str], enrolled: Mapping[str, int]
) -> int:
    """Return what a site counts for at most: here no share of the sum of others can be seen."""
    if section.weight_max is not None:
        return section.weight_max
    missing = sorted(set(cohort) - enrolled.keys())
    if missing:
        raise ConfigError(
            [
                f"secure_aggregation.weight_max is open, and the images of {len(missing)} sites "
                f"are not known (first '{missing[0]}'): set it to those of the largest site."
            ]
        )
    cap = weight_cap([enrolled[site] for site in cohort], run.federation.limits.weight_share)
    return max(1, min(int(cap), WEIGHT_AT_MOST))


def _told(
    talk: Talk, cohort: Sequence[str], sites: Sequence[str], joined: Update | None, void: str
) -> Masked:
    def why(site: str) -> str:
        return "" if site in sites else talk.left.get(site, "the round was void")

    records = tuple(SiteRecord(site=site, refused=why(site)) for site in sorted(cohort))
    return Masked(
        joined=joined,
        void=void,
        records=records,
        bytes_up=sum(talk.bytes_up.values()),
        bytes_down=sum(talk.bytes_down.values()),
    )

"""How a round ended: which sites failed at it, and which only took no part just then."""

from collections.abc import Collection, Sequence

from confrere_common.codes import CODES, sentence_of
from confrere_common.errors import RoundError
from confrere_server.cohort import needed
from confrere_server.record import RoundRecord

FOR_NOW = frozenset(
    {
        *(code for code in CODES if code.startswith("policy-")),
        "not-approved",
        "denied",
        "paused",
        "other-code",
        "other-plan",
        "no-such-data",
        "other-preparation",
        "masked-before",
    }
)
"""Codes by which a site takes part no longer, or not just now: it is asked anew."""

NO_LABELS = "no-labels"
"""The code of a site that has nothing for the run's task: it is not asked to train again."""

ABSENT = "it did not answer in time"
"""What ``rounds`` writes down of a site that was silent."""


def told(code: str) -> str:
    """Return a code with its sentence; empty for none."""
    return f"{code}: {sentence_of(code)}" if code else ""


def all_failed(record: RoundRecord, sites: Sequence[str]) -> bool:
    """Return whether every site failed at the round, rather than be away or not take part now."""
    return len(failed(record)) == len(sites)


def is_spoilt(record: RoundRecord, quorum: float) -> bool:
    """Return whether a void round would have counted, had those that failed answered validly."""
    valid = sum(1 for site in record.sites if not site.refused)
    return valid + len(failed(record)) >= needed(len(record.sites), quorum)


def failed(record: RoundRecord) -> list[str]:
    """Return the sites that answered, and neither validly nor that they take no part just now."""
    passing = {"", ABSENT, NO_LABELS, *FOR_NOW}
    return [site.site for site in record.sites if site.refused not in passing]


def why_failed(record: RoundRecord, count: int) -> str:
    """Return why a run ends after *count* rounds without a result."""
    said = sorted({f"{one.site}: {told(one.refused)}" for one in record.sites if one.refused})
    reasons = "; ".join(said) or "each update is valid alone"
    return (
        f"{count} rounds in succession had no result because of what sites answered, the last: "
        f"{record.void}. {reasons}. The rounds before are saved; mend the cause and resume the run."
    )


def must_be_enough(
    left: int, least: int, suspended: Collection[str], untaught: Collection[str]
) -> None:
    """Raise RoundError where sites that are asked no more leave fewer than *least*."""
    if left >= least or not (suspended or untaught):
        return
    said = []
    if suspended:
        said.append(
            f"{', '.join(sorted(suspended))} suspended, since updates were left out too often. See "
            "the audit log for why, mend it there; then clear the site, and resume the run"
        )
    if untaught:
        said.append(
            f"{', '.join(sorted(untaught))} without an image that is marked for the task. Have "
            "them mark some and submit the run again"
        )
    raise RoundError(
        f"{left} sites are left, and federation.min_sites is {least}: {'; '.join(said)}."
    )


def must_have_come_to_something(records: Sequence[RoundRecord], most: int) -> None:
    """Raise RoundError when the last *most* rounds, or all of fewer, had no result."""
    last = records[-most:]
    if last and all(record.void for record in last):
        raise RoundError(why_failed(last[-1], len(last)))

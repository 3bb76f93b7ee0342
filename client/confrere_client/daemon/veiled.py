"""A site's part in masked rounds between the line and the worker: who sits there, what is repeated.

The steps that train nothing are answered here, at once; the worker does the one that trains.
"""

import json
from collections.abc import Callable
from pathlib import Path

from confrere_client.hospital.plan import Plan, run_of
from confrere_client.hospital.policy import Policy
from confrere_client.hospital.site import SiteFolder
from confrere_client.masked.mask_state import Floor, Member
from confrere_client.masked.masked_round import NotesInFile, Seat, reply
from confrere_client.masked.mend import NOTES, STARTS, barred, read_starts
from confrere_common.errors import ConfrereError, ExchangeError
from confrere_common.exchange import Task, Update
from confrere_common.secagg.messages import (
    Invitation,
    Reply,
    Request,
    digest_of,
    digest_of_run,
    encode,
)
from confrere_common.secagg.roster import PinnedRoster
from confrere_common.secagg.section import SITES_AT_LEAST
from confrere_common.storage import atomic_write
from confrere_common.wire import REPLIES, read_message


class MaskedBefore(ExchangeError):  # noqa: N818  (the code says it better)
    """Another run had this very update under masks: the difference of two sums could show it."""

    code = "masked-before"


class OtherRoster(ExchangeError):  # noqa: N818  (the code says it better)
    """The plan's roster is not one that this site can sign in."""

    code = "other-roster"


class OutOfTurn(ExchangeError):  # noqa: N818  (the code says it better)
    """A message of a masked round does not fit what this site has seen of it."""

    code = "out-of-turn"


def must_be_seated(site: SiteFolder, plan: Plan) -> None:
    """Raise OtherRoster unless a masked run's roster has this site under its own key."""
    if run_of(plan.proposal).secure_aggregation is None:
        return
    own = site.signing_key().public_key().public_bytes_raw().hex()
    roster = plan.proposal.roster
    if roster.get(site.config.site) != own:
        raise OtherRoster("the plan's roster does not have this site under its own signing key")
    if len(set(roster.values())) != len(roster) or len(roster) < SITES_AT_LEAST:
        raise OtherRoster("the plan's roster has too few sites, or two under one key")


def seat_of(site: SiteFolder, plan: Plan, policy: Policy) -> Seat:
    """Return this site's seat in the masked rounds of *plan*; OtherRoster when it has none."""
    must_be_seated(site, plan)
    roster = PinnedRoster(plan.proposal.roster)
    member = Member(
        site=site.config.site,
        roster=roster.digest,
        sign=site.signing_key().sign,
        verify=roster.verify,
    )
    floor = Floor(sites=max(SITES_AT_LEAST, policy.min_sites))
    return Seat(member=member, notes=NotesInFile(_home(site, plan) / NOTES), floor=floor)


def answer_step(
    request: Request,
    site: SiteFolder,
    plan: Plan,
    policy: Policy,
    begins: Callable[[], None] = lambda: None,
) -> Reply:
    """Go a step that trains nothing; OutOfTurn when the request does not fit, and the round ends.

    The very same request is answered with the very same bytes: a reply may be lost on its way.
    *begins* is called before a new try is, which must find no work on an older one.
    """
    path = _home(site, plan) / "masked-reply.json"
    asked = digest_of(request)
    said = _said(path, asked)
    if said is not None:
        return said
    if isinstance(request, Invitation):
        _must_be_of(request, plan)
        params = request.params
        must_be_first(site, plan, (params.weights, params.seed, params.round))
        begins()
    seat = seat_of(site, plan, policy)
    try:
        made = reply(request, None, seat, _never)
    except ExchangeError as fault:
        raise OutOfTurn(str(fault)) from None
    body = {"asked": asked, "kind": type(made).__name__, "body": encode(made).decode()}
    atomic_write(path, json.dumps(body).encode())
    return made


def must_be_first(site: SiteFolder, plan: Plan, start: tuple[str, int, int]) -> None:
    """Raise MaskedBefore when another run had a masked update from the same *start*.

    *start* is the digest of the weights, the seed and the round: what an update depends on beside
    the images. Equal starts give equal updates, so sums among two cohorts would differ by one.
    """
    starts, own = _starts(site), plan.proposal.run_id
    before = [starts.get(name, own) for name in (_name(start), barred(start[1], start[2]))]
    if before != [own, own]:
        raise MaskedBefore("another run had a masked update from the same weights, seed and round")


def claim(site: SiteFolder, plan: Plan, start: tuple[str, int, int]) -> None:
    """Write down that an update from *start* leaves under masks, before it does; see above."""
    must_be_first(site, plan, start)
    starts = {**_starts(site), _name(start): plan.proposal.run_id}
    atomic_write(site.runs / STARTS, json.dumps(starts).encode())


def _starts(site: SiteFolder) -> dict[str, str]:
    try:
        return read_starts(site.runs / STARTS)
    except ExchangeError as fault:
        raise MaskedBefore(
            f"{fault}: what left under masks before is not known, and nothing more leaves. "
            "See confrere client mend."
        ) from None


def _name(start: tuple[str, int, int]) -> str:
    return " ".join(map(str, start))


def _must_be_of(invitation: Invitation, plan: Plan) -> None:
    params, proposal = invitation.params, plan.proposal
    due = (digest_of_run(proposal.run), proposal.seed, PinnedRoster(proposal.roster).digest)
    if (params.run, params.seed, params.roster) != due:
        raise OutOfTurn("a masked round is of another run, seed or roster than was approved")
    if params.round > run_of(proposal).federation.rounds:
        raise OutOfTurn("a masked round is beyond the last that was approved")


def _said(path: Path, asked: str) -> Reply | None:
    """Return what was replied to the request of that digest, if it was the last one."""
    try:
        found = json.loads(path.read_bytes())
        if found["asked"] == asked:
            made: Reply = read_message(found["kind"], found["body"].encode(), REPLIES)
            return made
    except (OSError, ValueError, KeyError, TypeError, ConfrereError):
        return None  # damaged: the request is then out of turn, and the site sits this round out
    return None


def _home(site: SiteFolder, plan: Plan) -> Path:
    return site.runs / plan.proposal.run_id


def _never(_: Task) -> Update:
    raise OutOfTurn("a step that trains came without its task")

"""A site's part in masked rounds at the daemon: its seat, what it repeats, what it refuses."""

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from served import enrolled, federated, make_study, served

from confrere_client.daemon.errand import may_begin
from confrere_client.daemon.veiled import (
    MaskedBefore,
    OtherRoster,
    OutOfTurn,
    answer_step,
    claim,
    must_be_seated,
)
from confrere_client.hospital.plan import Plan
from confrere_client.hospital.plans import receive
from confrere_client.hospital.policy import Policy
from confrere_client.hospital.site import SiteFolder
from confrere_client.masked.mend import STARTS, mend
from confrere_common.code import code_digest
from confrere_common.errors import CheckpointError
from confrere_common.loading import dump
from confrere_common.model import build_model, shared_weights
from confrere_common.proposal import Proposal
from confrere_common.secagg.messages import Invitation, Params, Signed, Survivors, digest_of_run
from confrere_common.secagg.roster import PinnedRoster
from confrere_common.secagg.section import SecureAggregation
from confrere_common.weights import count, weights_digest

RUN = replace(federated(rounds=2, min_sites=3), secure_aggregation=SecureAggregation())
OTHERS = {name: Ed25519PrivateKey.generate() for name in ("east", "south")}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SiteFolder:
    folder: Path = tmp_path_factory.mktemp("veiled")
    with served(make_study(folder / "study")) as server:
        return enrolled(server.workspace, folder / "site", "north")


def roster_of(site: SiteFolder) -> dict[str, str]:
    keys = {**OTHERS, "north": site.signing_key()}
    return {name: key.public_key().public_bytes_raw().hex() for name, key in keys.items()}


def plan_of(roster: dict[str, str], name: str = "run-1") -> Plan:
    proposal = Proposal(
        run_id=name, study="eyes", run=dump(RUN), code=code_digest(), sites=3, bytes_down=1,
        bytes_up=1, seed=0, roster=roster,
    )  # fmt: skip
    return Plan(proposal=proposal, received="2026-01-01")


def invitation(plan: Plan, **changed: object) -> Invitation:
    weights = shared_weights(build_model(RUN, seed=0))
    params = Params(
        run=digest_of_run(plan.proposal.run), seed=0, round=1, attempt=1,
        roster=PinnedRoster(plan.proposal.roster).digest, weights=weights_digest(weights),
        sites=tuple(sorted(plan.proposal.roster)), threshold=2, entries=count(weights), bits=26,
        clip=0.25, weight_max=100,
    )  # fmt: skip
    return Invitation(params=replace(params, **changed))


def test_a_site_signs_in_a_roster_that_has_its_own_key_alone(site: SiteFolder) -> None:
    sound = roster_of(site)
    foreign = {**sound, "north": sound["east"]}
    twice = {**sound, "west": sound["east"]}

    must_be_seated(site, plan_of(sound))
    for roster in (foreign, twice, {"north": sound["north"]}, {}):
        with pytest.raises(OtherRoster):
            must_be_seated(site, plan_of(roster))


def test_the_same_request_is_answered_with_the_same_bytes(site: SiteFolder) -> None:
    plan = plan_of(roster_of(site), "twice")
    asked = invitation(plan)

    one = answer_step(asked, site, plan, Policy())
    again = answer_step(asked, site, plan, Policy())

    assert isinstance(one, Signed)
    assert again == one


def test_an_invitation_to_something_else_than_was_approved_is_refused(site: SiteFolder) -> None:
    plan = plan_of(roster_of(site), "other")
    changes = ({"run": "0" * 64}, {"seed": 1}, {"roster": "0" * 64}, {"round": 3})

    for change in changes:
        with pytest.raises(OutOfTurn):
            answer_step(invitation(plan, **change), site, plan, Policy())


def test_a_step_that_was_not_begun_is_out_of_turn(site: SiteFolder) -> None:
    plan = plan_of(roster_of(site), "unbegun")

    with pytest.raises(OutOfTurn, match="not begun"):
        answer_step(Survivors(params="0" * 64, sites=("east",)), site, plan, Policy())


def test_a_policy_may_ask_for_more_company(site: SiteFolder) -> None:
    plan = plan_of(roster_of(site), "company")

    with pytest.raises(OutOfTurn):
        answer_step(invitation(plan), site, plan, Policy(min_sites=4))


def test_the_same_update_leaves_under_masks_in_one_run_only(site: SiteFolder) -> None:
    """Two runs from the same weights among two cohorts: their sums differ by one update."""
    one, two = plan_of(roster_of(site), "first"), plan_of(roster_of(site), "second")
    asked = invitation(two)
    start = (asked.params.weights, asked.params.seed, asked.params.round)

    claim(site, one, start)
    claim(site, one, start)  # another try in the same run is for the run's own history to refuse

    with pytest.raises(MaskedBefore):
        answer_step(asked, site, two, Policy())
    with pytest.raises(MaskedBefore):
        claim(site, two, start)
    claim(site, two, ("0" * 64, start[1], start[2]))


def test_a_damaged_record_of_what_left_refuses_rather_than_forgets(site: SiteFolder) -> None:
    plan = plan_of(roster_of(site), "damaged")
    (site.runs / STARTS).write_text("{")

    with pytest.raises(MaskedBefore, match="damaged"):
        answer_step(invitation(plan), site, plan, Policy())
    (site.runs / STARTS).unlink()


def kept(site: SiteFolder, name: str, rounds: int = 2, seed: int = 0) -> Plan:
    """Return a masked plan that lies at the site."""
    run = dump(replace(RUN, federation=replace(RUN.federation, rounds=rounds)))
    proposal = replace(plan_of(roster_of(site), name).proposal, run=run, seed=seed)
    return receive(site.folder, proposal)


def test_a_mended_record_takes_all_that_came_for_what_left(site: SiteFolder) -> None:
    old, new = kept(site, "old", seed=7), kept(site, "new", seed=7)
    other = kept(site, "other", seed=8)
    shutil.rmtree(site.plans / "new")  # it comes after the mending
    start = ("1" * 64, 7, 1)
    claim(site, old, start)
    (site.runs / STARTS).write_text("{")

    said = mend(site)

    assert "another seed" in said[0]
    assert mend(site) == ()
    assert list(site.runs.glob(f"{STARTS}.damaged-*"))
    claim(site, old, start)  # its own history refuses what is not to be held again
    claim(site, other, ("1" * 64, 8, 1))
    claim(site, new, ("1" * 64, 7, 3))  # no run that came had so many rounds
    for weights in ("1" * 64, "2" * 64):
        with pytest.raises(MaskedBefore):
            claim(site, new, (weights, 7, 1))
    (site.runs / STARTS).unlink()


def test_a_mending_that_a_crash_or_a_full_disk_cuts_off_forgets_nothing(
    site: SiteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(site, "cut", seed=51)
    notes = site.runs / "cut" / "masked.json"
    for path in (site.runs / STARTS, notes):
        path.parent.mkdir(exist_ok=True)
        path.write_text("{")
        with monkeypatch.context() as full:
            full.setattr(os, "fsync", no_space)
            with pytest.raises(OSError, match="No space"):
                mend(site)

        assert path.read_text() == "{"
        path.unlink()


def no_space(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_run_whose_plan_is_gone_is_barred_by_its_notes_or_nothing_is_mended(
    site: SiteFolder,
) -> None:
    plan = kept(site, "gone", rounds=4, seed=41)
    answer_step(invitation(plan, seed=41, round=3), site, plan, Policy())
    site.chain().append("masked update leaves", run="gone", round=3)
    shutil.rmtree(site.plans / "gone")
    (site.runs / STARTS).write_text("{")

    mend(site)

    later = kept(site, "later", rounds=4, seed=41)
    with pytest.raises(MaskedBefore):
        claim(site, later, ("1" * 64, 41, 3))
    (site.runs / "gone" / "masked.json").write_text("{")
    (site.runs / STARTS).write_text("{")
    with pytest.raises(CheckpointError, match="'gone'"):
        mend(site)
    kept(site, "gone", rounds=4, seed=41)
    mend(site)
    (site.runs / STARTS).unlink()


def test_mended_notes_of_a_run_hold_no_round_again(site: SiteFolder) -> None:
    plan = kept(site, "noted", rounds=4, seed=21)
    answer_step(invitation(plan, seed=21, round=2), site, plan, Policy())
    site.chain().append("round begun", run="noted", round=2)
    notes = site.runs / "noted" / "masked.json"
    notes.write_bytes(b"{")
    with pytest.raises(OutOfTurn):
        answer_step(invitation(plan, seed=21, round=3), site, plan, Policy())

    said = mend(site)

    assert "round 2" in said[0]
    for number in (1, 2):
        with pytest.raises(OutOfTurn, match=r"masked update already|replayed"):
            answer_step(invitation(plan, seed=21, round=number, attempt=9), site, plan, Policy())
    assert isinstance(answer_step(invitation(plan, seed=21, round=3), site, plan, Policy()), Signed)


def test_mended_notes_hold_no_round_again_though_the_log_is_a_new_one(site: SiteFolder) -> None:
    plan = kept(site, "relogged", rounds=5, seed=61)
    may_begin(site.runs / "relogged", 2, "key")
    claim(site, plan, ("1" * 64, 61, 3))
    notes = site.runs / "relogged" / "masked.json"
    notes.write_bytes(b"{")

    said = mend(site)

    assert "round 3" in said[0]
    with pytest.raises(OutOfTurn):
        answer_step(invitation(plan, seed=61, round=3), site, plan, Policy())
    (site.runs / STARTS).unlink()


def test_nothing_is_mended_from_an_audit_log_that_was_altered(site: SiteFolder) -> None:
    kept(site, "unsure", seed=31)
    (site.runs / STARTS).write_text("[]")
    sound = site.audit.read_bytes()
    site.audit.write_bytes(sound.replace(b'"round":2', b'"round":1'))

    with pytest.raises(CheckpointError, match="nothing was mended"):
        mend(site)

    site.audit.write_bytes(sound)
    assert len(mend(site)) == 1
    (site.runs / STARTS).unlink()


def test_a_new_try_ends_the_work_on_an_older_one_and_a_repeated_one_does_not(
    site: SiteFolder,
) -> None:
    plan, begun = plan_of(roster_of(site), "anew"), []
    asked = invitation(plan, seed=0, weights="1" * 64)

    for _ in range(2):
        answer_step(asked, site, plan, Policy(), lambda: begun.append(1))

    assert begun == [1]

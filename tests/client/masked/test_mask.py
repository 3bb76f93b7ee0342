"""A site in a masked round refuses whatever a malicious coordinator tries.

Every test lets five honest sites go on to some stage, and then changes what the coordinator says.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from masked_rounds import (
    ROSTER,
    Hospital,
    Ward,
    keys_of,
    member_of,
    params_of,
    talk_of,
    task_of,
    template_of,
    ward_of,
    weights,
)
from scipy import stats

from confrere_client.masked.mask_state import Floor, HeldPair
from confrere_common.exchange import Refusal, Task
from confrere_common.secagg.fixed_point import EXTRA
from confrere_common.secagg.masks import private_of, public_of
from confrere_common.secagg.messages import (
    Advert,
    Confirmation,
    Delivery,
    Invitation,
    Params,
    Question,
    Request,
    Revealed,
    Roll,
    Shares,
    Signed,
    Survivors,
    advert_text,
    confirmation_text,
    digest_of,
    encode,
)
from confrere_server.unmask import sum_of

SITES = tuple(f"site-{number:02d}" for number in range(5))
VICTIM, OTHER = SITES[1], SITES[3]


@dataclass
class Stage:
    """Five hospitals, and what a coordinator has of them so far."""

    ward: Ward
    params: Params
    adverts: dict[str, Signed]
    shares: dict[str, Shares]
    vectors: dict[str, Any]

    @property
    def digest(self) -> str:
        return digest_of(self.params)

    @property
    def victim(self) -> Hospital:
        return self.ward.hospitals[VICTIM]

    def roll(self, **changes: Signed) -> Roll:
        adverts = {**self.adverts, **changes}
        return Roll(params=self.digest, adverts=tuple(adverts.values()))

    def boxes(self, of: str) -> dict[str, Any]:
        found = {}
        for source, one in self.shares.items():
            for box in one.boxes:
                if box.site == of:
                    found[source] = replace(box, site=source)
        return found

    def delivery(self, of: str, **changes: Any) -> Delivery:
        boxes = {**self.boxes(of), **changes}
        return Delivery(params=self.digest, boxes=tuple(boxes.values()))

    def survivors(self, *sites: str) -> Survivors:
        return Survivors(params=self.digest, sites=sites or SITES)

    def confirmation(self, site: str, survivors: tuple[str, ...]) -> Confirmation:
        """Let a site that colludes sign anything."""
        text = confirmation_text(self.digest, digest_of(self.roll()), SITES, survivors)
        signature = self.ward.hospitals[site].member.sign(text)
        return Confirmation(params=self.digest, site=site, signature=signature)

    def question(self, told: tuple[str, ...], signers: tuple[str, ...], **changes: Any) -> Question:
        plain = {
            "params": self.digest,
            "survivors": told,
            "dropped": tuple(sorted(set(SITES) - set(told))),
            "confirmations": tuple(self.confirmation(site, told) for site in signers),
        }
        return Question(**{**plain, **changes})


def taken(reply: Any) -> Any:
    assert not isinstance(reply, Refusal), reply
    return reply


def staged(until: type, **changes: Any) -> Stage:
    """Return the round just before requests of kind *until* are sent."""
    ward = ward_of(5)
    params = params_of(SITES, template_of(ward), **changes)
    stage = Stage(ward, params, {}, {}, {})
    hospitals, task = ward.hospitals, task_of(ward, params.round)
    if until is Invitation:
        return stage
    invitation = Invitation(params=params)
    stage.adverts = {site: taken(one.reply(invitation)) for site, one in hospitals.items()}
    if until is Roll:
        return stage
    stage.shares = {site: taken(one.reply(stage.roll())) for site, one in hospitals.items()}
    if until is Delivery:
        return stage
    stage.vectors = {
        site: taken(one.reply(stage.delivery(site), task)) for site, one in hospitals.items()
    }
    if until is Question:
        for one in hospitals.values():
            taken(one.reply(stage.survivors()))
    return stage


def refused(stage: Stage, request: Request, due: str, task: Task | None = None) -> None:
    """Say that the victim refuses, keeps no secret, and takes nothing of the round after."""
    victim = stage.victim

    reply = victim.reply(request, task)

    assert isinstance(reply, Refusal)
    assert due in reply.reason
    assert victim.notes.load().state is None
    for later in (stage.survivors(), stage.question(SITES, SITES)):
        after = victim.reply(later)
        assert isinstance(after, Refusal)
        assert "out of turn" in after.reason


# ------------------------------------------------------------------------------ invitation


@pytest.mark.parametrize(
    ("changes", "due"),
    [
        ({"sites": SITES[:2], "threshold": 2}, "among 2 sites; this site asks at least 3"),
        ({"threshold": 3}, "the threshold is 3 of 5 sites; this site asks at least 4"),
        ({"threshold": 2}, "the threshold is 2 of 5 sites"),
        ({"threshold": 6}, "the threshold is 6 of 5 sites"),
        ({"sites": ("a", "b", "c", "d", "e")}, "this site is not among those"),
        ({"roster": "00" * 32}, "the roster of the masked round is not the one that is pinned"),
        ({"bits": 8}, "8 bits a value"),
        ({"bits": 31}, "31 bits a value"),
    ],
)
def test_a_round_that_hides_too_little_is_refused(changes: Mapping[str, Any], due: str) -> None:
    stage = staged(Invitation, **changes)

    refused(stage, Invitation(params=stage.params), due)


@pytest.mark.parametrize(
    ("floor", "due"),
    [
        (Floor(sites=6), "among 5 sites; this site asks at least 6"),
        (Floor(survivors=5), "this site asks at least 5"),
        (Floor(bits=27), "26 bits a value with 5 sites; this site accepts 27"),
    ],
)
def test_a_site_may_ask_for_more_than_the_least(floor: Floor, due: str) -> None:
    stage = staged(Invitation)
    stage.victim.floor = floor

    refused(stage, Invitation(params=stage.params), due)


def test_a_site_can_not_ask_for_less_than_the_least() -> None:
    stage = staged(Invitation, sites=SITES[:2], threshold=2)
    stage.victim.floor = Floor(sites=0, survivors=0, bits=0)

    refused(stage, Invitation(params=stage.params), "asks at least 3")


@pytest.mark.parametrize("changes", [{}, {"threshold": 5}, {"attempt": 0}])
def test_a_round_that_is_replayed_is_refused(changes: Mapping[str, Any]) -> None:
    stage = staged(Delivery)

    refused(stage, Invitation(params=replace(stage.params, **changes)), "it is replayed")


@pytest.mark.parametrize("changes", [{}, {"attempt": 9}, {"attempt": 9, "sites": SITES[:4]}])
def test_an_update_is_masked_once_for_a_round(changes: Mapping[str, Any]) -> None:
    """A second sum, with the same update but another cohort, would show the difference."""
    stage = staged(Survivors)

    refused(
        stage,
        Invitation(params=replace(stage.params, **changes)),
        "round 1 had this site's masked update already",
    )


def test_an_earlier_round_is_replayed_whatever_its_attempt() -> None:
    stage = staged(Survivors, round=5)

    refused(stage, Invitation(params=replace(stage.params, round=4, attempt=99)), "it is replayed")


def test_a_round_that_failed_before_the_masks_may_be_tried_again() -> None:
    stage = staged(Delivery)

    again = stage.victim.reply(Invitation(params=replace(stage.params, attempt=2)))

    assert isinstance(again, Signed)
    assert again != stage.adverts[VICTIM]


def test_another_run_or_seed_is_another_history() -> None:
    stage = staged(Survivors)

    for changes in ({"run": "11" * 32}, {"seed": 1}, {"round": 2}):
        again = stage.victim.reply(Invitation(params=replace(stage.params, **changes)))

        assert isinstance(again, Signed)


# ------------------------------------------------------------------------------------ keys


def forged(stage: Stage, by: Callable[[bytes], bytes], of: str = OTHER, **changes: Any) -> Signed:
    """Return keys that the coordinator made, for a site, signed by whom it can make sign."""
    known = public_of(private_of(bytes(16), stage.digest, "seal"))
    plain = {"params": stage.digest, "site": of, "mask_key": known, "seal_key": known}
    body = encode(Advert(**{**plain, **changes}))
    return Signed(site=of, body=body, signature=by(advert_text(body)))


def test_keys_that_the_coordinator_put_in_their_place_are_refused() -> None:
    stage = staged(Roll)
    sybil = keys_of(["sybil"])["sybil"].sign
    other = stage.adverts[OTHER]

    for bad in (
        forged(stage, sybil),
        replace(forged(stage, sybil), signature=other.signature),
        replace(other, body=other.body.replace(b'"mask_key":"', b'"mask_key":"00')[:-2]),
        replace(other, site="stranger"),
        forged(stage, sybil, of="stranger"),
    ):
        fresh = staged(Roll)
        fresh.adverts = {**stage.adverts, OTHER: bad, VICTIM: fresh.adverts[VICTIM]}
        refused(fresh, fresh.roll(), "are not signed by a site of the round")


def test_keys_of_another_round_are_refused() -> None:
    stage = staged(Roll)
    sign = stage.ward.hospitals[OTHER].member.sign
    earlier = forged(stage, sign, params="11" * 32)

    refused(stage, stage.roll(**{OTHER: earlier}), "are of another site or another round")


def test_a_site_s_own_keys_must_be_on_the_roll_as_it_gave_them() -> None:
    stage = staged(Roll)
    sign = stage.victim.member.sign

    refused(
        stage,
        stage.roll(**{VICTIM: forged(stage, sign, of=VICTIM)}),
        "does not hold this site's keys as it announced them",
    )


def test_a_roll_that_names_a_site_twice_is_refused() -> None:
    stage = staged(Roll)
    again = forged(stage, stage.ward.hospitals[OTHER].member.sign)

    refused(stage, stage.roll(again=again), "names a site twice")


def test_a_roll_below_the_threshold_is_refused() -> None:
    stage = staged(Roll)
    few = Roll(params=stage.digest, adverts=tuple(stage.adverts[site] for site in SITES[:3]))

    refused(stage, few, "the roll has 3 sites; the threshold is 4")


def test_a_colluding_site_s_key_of_low_order_is_refused() -> None:
    stage = staged(Roll)
    sign = stage.ward.hospitals[OTHER].member.sign

    refused(stage, stage.roll(**{OTHER: forged(stage, sign, seal_key=bytes(32))}), "low order")


# ---------------------------------------------------------------------------------- shares


def test_too_few_shares_that_open_are_refused() -> None:
    stage = staged(Delivery)
    boxes = stage.boxes(VICTIM)
    spoilt = {
        site: replace(box, box=box.box[:-1] + bytes([box.box[-1] ^ 1]))
        for site, box in list(boxes.items())[:2]
    }

    refused(stage, stage.delivery(VICTIM, **spoilt), "3 of the delivered shares could be opened")


def test_one_site_that_seals_rubbish_does_not_stop_the_others() -> None:
    stage = staged(Delivery)
    box = stage.boxes(VICTIM)[OTHER]
    spoilt = replace(box, box=bytes(60))

    sent = stage.victim.reply(stage.delivery(VICTIM, **{OTHER: spoilt}), task_of(stage.ward))

    assert isinstance(sent, np.ndarray)


def test_shares_meant_for_another_or_from_another_do_not_open() -> None:
    stage = staged(Delivery)
    mine, others = stage.boxes(VICTIM), stage.boxes(SITES[0])
    names = [site for site in mine if site in others]

    swapped = {site: others[site] for site in names}
    refused(stage, stage.delivery(VICTIM, **swapped), "of the delivered shares could be opened")

    stage = staged(Delivery)
    mine = stage.boxes(VICTIM)
    turned = dict(zip(mine, [*list(mine.values())[1:], next(iter(mine.values()))], strict=True))
    moved = {site: replace(box, site=site) for site, box in turned.items()}
    refused(stage, stage.delivery(VICTIM, **moved), "of the delivered shares could be opened")


@pytest.mark.parametrize("name", ["stranger", SITES[0]])
def test_a_delivery_with_a_box_too_many_is_refused(name: str) -> None:
    stage = staged(Delivery)
    more = replace(stage.boxes(VICTIM)[SITES[0]], site=name)

    refused(stage, stage.delivery(VICTIM, more=more), "a box twice, or of a site that is not")


def test_sites_told_of_other_keys_can_not_read_each_other_s_shares() -> None:
    """Equivocation on the roll: the victim is told of four sites, the others of five."""
    stage = staged(Roll)
    short = {site: stage.adverts[site] for site in SITES[:4]}
    for site, one in stage.ward.hospitals.items():
        roll = stage.roll()
        if site == VICTIM:
            roll = Roll(params=stage.digest, adverts=tuple(short.values()))
        stage.shares[site] = taken(one.reply(roll))
    boxes = {site: box for site, box in stage.boxes(VICTIM).items() if site in short}

    request = Delivery(params=stage.digest, boxes=tuple(boxes.values()))

    refused(stage, request, "1 of the delivered shares could be opened")


# --------------------------------------------------------------------------- the task itself


@pytest.mark.parametrize(
    ("changes", "due"),
    [
        ({"weights": weights(seed=9)}, "not those that all sites signed"),
        ({"weights": weights(13)}, "more or fewer than all sites signed"),
        ({"run": '{"lr":1}'}, "not of the run, seed and round"),
        ({"seed": 1}, "not of the run, seed and round"),
        ({"round": 2}, "not of the run, seed and round"),
    ],
)
def test_a_task_other_than_all_sites_signed_is_refused(
    changes: Mapping[str, Any], due: str
) -> None:
    """A coordinator that gives each site another model could tell its part in the sum."""
    stage = staged(Delivery)
    task = replace(task_of(stage.ward), **changes)

    refused(stage, stage.delivery(VICTIM), due, task)


def test_an_update_is_not_masked_without_a_task() -> None:
    stage = staged(Delivery)

    refused(stage, stage.delivery(VICTIM), "no task came with it")


def test_a_site_that_fails_to_train_holds_no_secret_after() -> None:
    stage = staged(Delivery)
    stage.victim.delta = {name: tensor * np.nan for name, tensor in weights().items()}

    refused(stage, stage.delivery(VICTIM), "NaN or infinite", task_of(stage.ward))


# ------------------------------------------------------------------------------- unmasking


@pytest.mark.parametrize(
    ("sites", "due"),
    [
        (SITES[:3], "3 sites survived; the threshold is 4"),
        ((*SITES[:4], "stranger"), "a site that shared nothing"),
        (tuple(site for site in SITES if site != VICTIM), "this site is not among the survivors"),
    ],
)
def test_survivors_that_can_not_be_are_refused(sites: tuple[str, ...], due: str) -> None:
    stage = staged(Survivors)

    refused(stage, stage.survivors(*sites), due)


def test_a_site_signs_one_set_of_survivors_and_no_second() -> None:
    stage = staged(Survivors)
    taken(stage.victim.reply(stage.survivors()))

    refused(stage, stage.survivors(*SITES[:4]), "out of turn")


def test_both_shares_of_one_site_are_never_given() -> None:
    stage = staged(Question)

    both = stage.question(SITES, SITES, dropped=(OTHER,))

    refused(stage, both, f"both shares of '{OTHER}' are asked for")


@pytest.mark.parametrize(
    "changes",
    [
        {"survivors": SITES[:4], "dropped": (SITES[4],)},
        {"survivors": SITES[:4], "dropped": ()},
        {"dropped": ("stranger",)},
    ],
)
def test_only_what_the_site_signed_is_answered(changes: Mapping[str, Any]) -> None:
    stage = staged(Question)

    refused(stage, stage.question(SITES, SITES, **changes), "not those that this site has signed")


def test_equivocation_on_survivors_is_refused() -> None:
    """The coordinator tells two sites that all survived, three that one did not: neither wins."""
    stage = staged(Survivors)
    told = {site: SITES if site in SITES[:2] else SITES[1:] for site in SITES}
    for site, one in stage.ward.hospitals.items():
        taken(one.reply(stage.survivors(*told[site])))

    refused(
        stage,
        stage.question(SITES, SITES[:2]),
        "2 sites confirmed the survivors that this site was told; the threshold is 4",
    )
    for site in SITES[2:]:
        reply = stage.ward.hospitals[site].reply(stage.question(SITES[1:], SITES[2:]))
        assert isinstance(reply, Refusal)
        assert "some were told otherwise" in reply.reason


@pytest.mark.parametrize(
    "spoil",
    [
        lambda one: replace(one, signature=one.signature[:-1] + bytes([one.signature[-1] ^ 1])),
        lambda one: replace(one, params="00" * 32),
        lambda one: replace(one, site="stranger"),
        lambda one: replace(one, site=SITES[0]),
    ],
)
def test_confirmations_that_are_no_signatures_do_not_count(
    spoil: Callable[[Confirmation], Confirmation],
) -> None:
    stage = staged(Question)
    good = stage.question(SITES, SITES).confirmations
    bad = tuple(spoil(one) for one in good[1:3]) + (good[0],) * 4 + good[3:]

    refused(stage, stage.question(SITES, SITES, confirmations=bad), "3 sites confirmed")


def test_masks_are_revealed_once() -> None:
    stage = staged(Question)
    question = stage.question(SITES, SITES)

    first = stage.victim.reply(question)

    assert isinstance(first, Revealed)
    assert [one.site for one in first.seeds] == list(SITES)
    assert first.keys == ()
    refused(stage, question, "out of turn: the round is not begun, or over")


def test_messages_of_another_round_are_refused_at_every_stage() -> None:
    other = "22" * 32
    for until, change in (
        (Roll, lambda stage: replace(stage.roll(), params=other)),
        (Delivery, lambda stage: replace(stage.delivery(VICTIM), params=other)),
        (Survivors, lambda stage: replace(stage.survivors(), params=other)),
        (Question, lambda stage: replace(stage.question(SITES, SITES), params=other)),
    ):
        stage = staged(until)

        refused(stage, change(stage), "belongs to another masked round", task_of(stage.ward))


@pytest.mark.parametrize("until", [Invitation, Roll, Delivery])
def test_a_message_out_of_turn_ends_the_round(until: type) -> None:
    stage = staged(until)

    refused(stage, stage.survivors(), "out of turn")


# -------------------------------------------------------------------------- what can be seen


def test_a_masked_update_looks_like_noise_and_like_no_other() -> None:
    ward = ward_of(4, entries=60_000)

    sum_of(talk_of(ward), task_of(ward))
    seen = {site: reply for site, request, reply in ward.seen if isinstance(request, Delivery)}

    for vector in seen.values():
        values = vector[:-EXTRA]
        for shift in (0, 8, 16, 24):
            counts = np.bincount((values >> shift) & 255, minlength=256)
            assert stats.chisquare(counts).pvalue > 1e-6
    flat = np.array([vector.astype(np.float64) for vector in seen.values()])
    between = np.corrcoef(flat) - np.eye(len(flat))
    assert np.abs(between).max() < 0.025  # six standard errors


def test_the_same_update_masked_twice_shows_no_difference() -> None:
    """Two rounds in which a site sends the very same update: the difference is noise as well."""
    stages = [staged(Survivors, round=number) for number in (1, 2)]

    one, two = (stage.vectors[VICTIM] for stage in stages)

    assert len(set((one - two).tolist())) == len(one)


def test_a_state_shows_no_secret_when_it_is_printed() -> None:
    stage = staged(Survivors)
    notebook = stage.victim.notes.load()
    held = notebook.state.held

    shown = f"{notebook} {notebook.state} {held}"

    assert isinstance(held[0], HeldPair)
    assert not any(pair.seed.hex() in shown or repr(pair.seed) in shown for pair in held)


def test_a_member_speaks_for_its_own_site() -> None:
    keys = keys_of(["north"])
    member = member_of(keys, "north")

    assert member.roster == ROSTER
    assert member.verify("north", b"text", member.sign(b"text"))
    assert not member.verify("south", b"text", member.sign(b"text"))

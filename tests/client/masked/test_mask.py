"""A site masks its update with shares that open, for the task that all signed, as noise.

Every test lets five honest sites go on to some stage, and then changes what the coordinator says.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from mask_stages import OTHER, SITES, VICTIM, refused, staged, taken
from masked_rounds import ROSTER, keys_of, member_of, talk_of, task_of, ward_of, weights
from scipy import stats

from confrere_client.masked.mask_state import HeldPair
from confrere_common.secagg.fixed_point import EXTRA
from confrere_common.secagg.messages import Delivery, Invitation, Question, Roll, Survivors
from confrere_server.unmask import sum_of

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


# -------------------------------------------------------------------- rounds and turns


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

"""A site reveals the masks of one set of survivors, once, and never both shares of a site."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from mask_stages import OTHER, SITES, VICTIM, refused, staged, taken

from confrere_common.exchange import Refusal
from confrere_common.secagg.messages import Confirmation, Question, Revealed, Survivors


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

"""A site takes no part in a masked round that hides too little, is replayed, or forges keys."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from mask_stages import OTHER, SITES, VICTIM, Stage, refused, staged
from masked_rounds import keys_of

from confrere_client.masked.mask_state import Floor
from confrere_common.secagg.masks import private_of, public_of
from confrere_common.secagg.messages import (
    Advert,
    Delivery,
    Invitation,
    Roll,
    Signed,
    Survivors,
    advert_text,
    encode,
)

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

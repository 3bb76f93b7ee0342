"""The coordinator gets the exact sum of who stayed, whoever drops and whenever, or nothing."""

import itertools
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from masked_rounds import (
    STAGES,
    Ward,
    error_of,
    mean_of,
    names,
    summed,
    talk_of,
    task_of,
    ward_of,
)

from confrere_client.masked.masked_round import rounding
from confrere_common.errors import RoundError
from confrere_common.exchange import Refusal
from confrere_common.secagg.fixed_point import EXTRA, from_fixed, to_fixed
from confrere_common.secagg.messages import (
    Delivery,
    Invitation,
    Question,
    Revealed,
    Roll,
    Shares,
    Survivors,
)
from confrere_server.unmask import start_talk, sum_of

SITES = tuple(names(5))
BEFORE_UPDATES = (Invitation, Roll, Delivery)


def staying(silent: Mapping[type, frozenset[str]]) -> tuple[str, ...]:
    gone = {site for stage in BEFORE_UPDATES for site in silent.get(stage, ())}
    return tuple(site for site in SITES if site not in gone)


def patterns(size: int, among: Sequence[str] = SITES) -> Iterator[dict[type, frozenset[str]]]:
    """Yield every way in which *size* of the sites *among* five fall silent, each at any stage."""
    for gone in itertools.combinations(among, size):
        for stages in itertools.product(STAGES, repeat=size):
            pairs = list(zip(stages, gone, strict=True))
            yield {stage: frozenset(site for at, site in pairs if at is stage) for stage in STAGES}


def told(silent: Mapping[type, frozenset[str]]) -> str:
    return " ".join(f"{stage.__name__}:{sorted(s)}" for stage, s in silent.items() if s)


ALL_STAY: dict[type, frozenset[str]] = {}


@pytest.mark.parametrize("silent", [ALL_STAY, *patterns(1)], ids=told)
def test_every_site_may_drop_at_every_stage(silent: Mapping[type, frozenset[str]]) -> None:
    ward = ward_of(5)
    ward.silent = silent

    found = summed(ward)

    assert found.sites == staying(silent)
    assert found.images == sum(ward.hospitals[site].images for site in found.sites)
    assert error_of(found.delta, mean_of(ward, found.sites)) < 1e-5


def test_with_two_of_five_gone_at_any_two_stages_nothing_is_learned() -> None:
    """The threshold is 4. Two sites that are neighbours stand for any two: sites are alike."""
    ward = ward_of(5)
    for number, silent in enumerate(patterns(2, among=SITES[1:3])):
        ward.silent = silent

        with pytest.raises(RoundError, match=r"3 of 5 sites .*; the threshold is 4"):
            summed(ward, round=number + 1)


def test_several_may_drop_of_many_at_several_stages() -> None:
    ward = ward_of(10)
    one, two, three = names(10)[1], names(10)[4], names(10)[9]
    ward.silent = {Delivery: frozenset([one]), Roll: frozenset([two]), Question: frozenset([three])}

    talk = talk_of(ward)
    found = sum_of(talk, task_of(ward))

    assert found.sites == tuple(site for site in names(10) if site not in (one, two))
    assert error_of(found.delta, mean_of(ward, found.sites)) < 1e-5
    assert set(talk.left) == {one, two, three}
    assert set(talk.left.values()) == {"it did not answer in time"}


def test_the_sum_is_the_very_sum_of_what_the_sites_rounded() -> None:
    ward = ward_of(6, entries=1000)
    plain = Ward(ward.hospitals, ward.verify)
    params = talk_of(ward).params
    found = summed(ward)

    total = np.zeros(1000 + EXTRA, np.uint32)
    for site, one in plain.hospitals.items():
        total += to_fixed(one.delta, one.images, params.point, rounding(params, site))
    due, images, sites = from_fixed(total, task_of(ward).weights, params.point)

    assert all(torch.equal(found.delta[name], due[name]) for name in due)
    assert (found.images, len(found.sites)) == (images, sites)


@pytest.mark.parametrize("size", [3, 8, 20])
def test_the_mean_is_within_a_hundred_thousandth_of_the_plain_one(size: int) -> None:
    ward = ward_of(size, entries=5000, images=lambda number: 200 + 13 * number % 300)

    found = summed(ward)

    assert error_of(found.delta, mean_of(ward, found.sites)) <= 1e-5


def test_a_round_done_again_gives_the_same_bits_under_other_masks() -> None:
    one, two = summed(ward_of(4)), summed(ward_of(4))

    assert all(torch.equal(one.delta[name], two.delta[name]) for name in one.delta)


def test_bytes_of_both_ways_are_counted() -> None:
    ward = ward_of(4, entries=10_000)
    talk = talk_of(ward)

    sum_of(talk, task_of(ward))

    assert set(talk.bytes_up) == set(talk.bytes_down) == set(names(4))
    for site in names(4):
        assert 40_000 < talk.bytes_up[site] < 45_000
        assert 2_000 < talk.bytes_down[site] < 8_000  # the weights are the task's, not counted


# --------------------------------------------------------------- sites that answer rubbish


class Bad:
    """A carrier that lets one site reply falsely."""

    def __init__(self, ward: Ward, kind: type, site: str, make: Any) -> None:
        self.ward, self.kind, self.site, self.make = ward, kind, site, make

    def __call__(self, requests: Any, task: Any) -> Iterator[Any]:
        for site, reply in self.ward.carry(requests, task):
            if site == self.site and isinstance(requests[site], self.kind):
                yield site, self.make(reply)
            else:
                yield site, reply


def with_bad(kind: type, make: Any, size: int = 5) -> tuple[Any, Ward, dict[str, str]]:
    ward = ward_of(size)
    talk = talk_of(ward)
    talk = start_talk(talk.params, Bad(ward, kind, names(size)[2], make), ward.verify)
    found: Any = None
    try:
        found = sum_of(talk, task_of(ward))
    except RoundError as fault:
        found = fault
    return found, ward, talk.left


RUBBISH: Mapping[str, tuple[type, Any, str]] = {
    "a refusal": (Invitation, lambda _: Refusal(site="x", round=1, reason="no"), "no"),
    "another kind": (Invitation, lambda _: np.zeros(3, np.uint32), "it answered ndarray"),
    "an unsigned advert": (
        Invitation,
        lambda one: replace(one, signature=b"\0" * 64),
        "are not signed by a site",
    ),
    "another's advert": (Invitation, lambda one: replace(one, site="site-00"), "not signed"),
    "shares of another round": (Roll, lambda one: replace(one, params="0" * 64), "another round"),
    "too few shares": (Roll, lambda one: replace(one, boxes=one.boxes[1:]), "one share to each"),
    "a share twice": (
        Roll,
        lambda one: replace(one, boxes=(one.boxes[0], *one.boxes[:-1])),
        "one share to each",
    ),
    "a short vector": (Delivery, lambda one: one[1:], "due is uint32[14]"),
    "a wide vector": (Delivery, lambda one: one.astype(np.uint64), "update is uint64"),
    "a square": (Delivery, lambda one: one.reshape(2, -1), "its masked update is uint32[2, 7]"),
    "another's confirmation": (
        Survivors,
        lambda one: replace(one, signature=b"\0" * 64),
        "not its signature",
    ),
    "an answer of another round": (
        Question,
        lambda one: replace(one, params="0" * 64),
        "another round",
    ),
}


@pytest.mark.parametrize("what", RUBBISH)
def test_one_site_that_answers_rubbish_costs_nobody_the_round(what: str) -> None:
    kind, make, due = RUBBISH[what]

    found, ward, left = with_bad(kind, make)

    assert not isinstance(found, RoundError), found
    stayed = SITES if kind in (Survivors, Question) else tuple(s for s in SITES if s != SITES[2])
    assert found.sites == stayed
    assert error_of(found.delta, mean_of(ward, stayed)) < 1e-5
    assert due in left[SITES[2]]


def false(one: Revealed) -> Revealed:
    return replace(one, seeds=tuple(replace(held, share=bytes(16)) for held in one.seeds))


def test_a_site_that_reveals_false_shares_is_passed_over() -> None:
    found, ward, _ = with_bad(Question, false)

    assert error_of(found.delta, mean_of(ward, SITES)) < 1e-5


def test_a_site_that_announced_another_seed_makes_the_round_void_and_is_named() -> None:
    def other(one: Shares) -> Shares:
        return replace(one, seed_digest="0" * 64)

    found, _, _ = with_bad(Roll, other)

    assert isinstance(found, RoundError)
    assert "the seed of site-02 could not be put together" in str(found)


def test_shares_that_nobody_can_open_make_the_round_void_and_their_site_is_named() -> None:
    def closed(one: Shares) -> Shares:
        return replace(one, boxes=tuple(replace(box, box=bytes(60)) for box in one.boxes))

    found, _, _ = with_bad(Roll, closed)

    assert isinstance(found, RoundError)
    assert "site-02" in str(found)


@pytest.mark.parametrize(("slot", "value"), [(-1, 5), (-2, 10**9)])
def test_a_site_that_counts_itself_twice_or_too_heavy_makes_the_round_void(
    slot: int, value: int
) -> None:
    def heavy(vector: Any) -> Any:
        vector = vector.copy()
        vector[slot:][:1] += np.uint32(value)
        return vector

    found, _, _ = with_bad(Delivery, heavy)

    assert isinstance(found, RoundError)
    assert "did not cancel" in str(found)


def test_unasked_and_second_replies_count_for_nothing() -> None:
    ward = ward_of(5)

    def carry(requests: Any, task: Any) -> Iterator[Any]:
        for site, reply in ward.carry(requests, task):
            yield "stranger", reply
            yield site, reply
            yield site, reply

    talk = start_talk(talk_of(ward).params, carry, ward.verify)

    found = sum_of(talk, task_of(ward))

    assert error_of(found.delta, mean_of(ward, SITES)) < 1e-5


def test_a_coordinator_holds_one_vector_however_many_answer() -> None:
    made: list[weakref.ref[Any]] = []
    alive = []
    ward = ward_of(6)

    def carry(requests: Any, task: Any) -> Iterator[Any]:
        for site, request in requests.items():
            reply = ward.hospitals[site].reply(request, task)
            if isinstance(reply, np.ndarray):
                made.append(weakref.ref(reply))
                alive.append(sum(one() is not None for one in made))
            yield site, reply
            del reply

    sum_of(start_talk(talk_of(ward).params, carry, ward.verify), task_of(ward))

    assert alive == [1] * 6

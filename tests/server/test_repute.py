"""An update's length is compared with those of earlier rounds; who offends again is suspended."""

import json
from dataclasses import replace

import pytest
import torch
from site_updates import GATE, KNOWN, TEMPLATE, update

from confrere_common.limits import Limits
from confrere_server.admission import (
    Gate,
    Repute,
    Verdict,
    after_round,
    cleared,
    judged,
    length_of,
    read_repute,
)

# ---------------------------------------------------------------------------- length


def test_a_fixed_limit_holds_from_the_first_round() -> None:
    gate = Gate(template=TEMPLATE, limits=Limits(norm=0.01))

    assert "federation.limits.norm is 0.01" in judged(update("a"), gate).fault
    assert judged(update("a"), replace(gate, limits=Limits(norm=1.0))).fault == ""


def test_a_long_update_is_shortened_to_the_bound_of_earlier_rounds() -> None:
    one = update("a")
    gate = replace(GATE, limits=Limits(clip_ratio=0.5))
    before = {name: tensor.clone() for name, tensor in one.delta.items()}

    verdict = judged(one, gate)

    assert verdict.update is not None
    assert length_of(verdict.update.delta) == pytest.approx(0.03, rel=1e-5)
    assert verdict.length == pytest.approx(0.03)
    assert all(torch.equal(one.delta[name], before[name]) for name in before)


def test_no_site_widens_its_own_limit_round_by_round() -> None:
    limits, repute, longest = Limits(norm_ratio=2.0), Repute(lengths=(1.0,)), 0.0

    for number in range(1, 6):  # 1.9 times as long as its last, every round
        sound = [Verdict(site=name, length=1.0) for name in ("a", "b")]
        gate = Gate(template=TEMPLATE, limits=limits, repute=repute)
        delta = {"w": torch.zeros(6, 5), "b": torch.zeros(7)}
        delta["w"][0, 0] = 1.9**number
        bad = judged(update("bad", delta=delta), gate)
        longest = max(longest, bad.length)
        repute = after_round(repute, [*sound, bad], number, limits)

    assert longest < 2.0
    assert repute.suspended == ("bad",)


def test_without_a_round_before_no_length_is_compared() -> None:
    gate = Gate(template=TEMPLATE, limits=Limits(clip_ratio=0.1, norm_ratio=1.1))

    assert judged(update("a"), gate).fault == ""


# ------------------------------------------------------------------------------ repute


def verdicts(**faults: str) -> list[Verdict]:
    return [Verdict(site=site, fault=fault, length=1.0) for site, fault in faults.items()]


def test_repeated_offence_suspends_a_site_until_it_is_cleared() -> None:
    repute, limits = Repute(), Limits(offences=3)

    for number in (1, 2):
        repute = after_round(repute, verdicts(bad="NaN", good=""), number, limits)
    assert repute.suspended == ()
    repute = after_round(repute, verdicts(bad="NaN", good=""), 3, limits)
    assert repute.suspended == ("bad",)
    repute = after_round(repute, verdicts(good=""), 40, limits)
    assert repute.suspended == ("bad",)

    repute = cleared(repute, "bad")

    assert repute.suspended == ()
    assert repute.offences == {}


def test_offences_long_ago_are_forgotten() -> None:
    repute, limits = Repute(), Limits(offences=2)

    for number in (1, 12, 23):
        repute = after_round(repute, verdicts(bad="NaN"), number, limits)

    assert repute.suspended == ()
    assert repute.offences == {"bad": (23,)}


def test_lengths_are_those_of_admitted_updates_of_the_last_rounds() -> None:
    repute = Repute()

    for number in range(1, 15):
        told = [
            Verdict(site="a", length=float(number)),
            Verdict(site="b", length=float(number)),
            Verdict(site="bad", fault="too long", length=1e9),
        ]
        repute = after_round(repute, told, number, Limits(offences=99))

    assert repute.lengths == tuple(float(number) for number in range(5, 15))


def test_a_round_without_updates_changes_no_length() -> None:
    assert after_round(KNOWN, [], 9, Limits()).lengths == KNOWN.lengths


def test_repute_is_saved_and_read_back() -> None:
    repute = after_round(KNOWN, verdicts(bad="NaN", good=""), 3, Limits(offences=1))

    assert read_repute(json.loads(json.dumps(repute.as_dict()))) == repute

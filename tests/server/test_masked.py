"""Rounds under secure aggregation end as plain ones do, or say why they do not."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from masked_rounds import ROSTER, error_of, keys_of, member_of, verifier
from stage import START, Stage, answering, federation, record_of, silent
from tiny_runs import tiny_run

from confrere_client.masked.masked_round import NotesInMemory, Seat, reply
from confrere_common.errors import ConfigError, ConfrereError, RoundError
from confrere_common.exchange import Refusal, Task, Update
from confrere_common.secagg.messages import Delivery, Invitation, Survivors
from confrere_server.masked import Veil, must_be_maskable, must_hide
from confrere_server.rounds import Study, one_round, run_rounds
from confrere_server.rule import RULES

IMAGES = {"a": 90, "b": 100, "c": 110, "d": 120}


def run_of(section: Mapping[str, Any] | None = None, **changes: Any) -> Any:
    masks = {"clip": 2.0, **(section or {})}
    return tiny_run(federation={"rounds": 3, **changes}, secure_aggregation=masks)


@dataclass
class Hall:
    """Sites whose updates are known, and a veil to them."""

    silent: dict[type, set[str]] = field(default_factory=dict)
    attempts: int = 0

    def veil(self) -> Veil:
        keys = keys_of(IMAGES)
        self.seats = {
            site: Seat(member=member_of(keys, site), notes=NotesInMemory()) for site in IMAGES
        }
        return Veil(
            carry=self.carry, verify=verifier(keys), roster=ROSTER, attempt=lambda: self.attempt()
        )

    def attempt(self) -> int:
        self.attempts += 1
        return self.attempts

    def carry(self, requests: Mapping[str, Any], task: Task | None) -> Iterator[Any]:
        for site, request in requests.items():
            if site in self.silent.get(type(request), ()):
                continue
            try:
                yield site, reply(request, task, self.seats[site], lambda t, s=site: learned(s, t))
            except ConfrereError as fault:
                yield site, Refusal(site=site, round=0, reason=str(fault))


def learned(site: str, task: Task) -> Update:
    generator = torch.Generator().manual_seed(ord(site) + 100 * task.round)
    delta = {
        name: 0.1 * torch.randn(t.shape, generator=generator) for name, t in task.weights.items()
    }
    return Update(site=site, round=task.round, delta=delta, images=IMAGES[site])


def masked_study(hall: Hall, run: Any) -> Study:
    plain = Stage({site: lambda task, s=site: [learned(s, task)] for site in IMAGES}, run).study
    return replace(plain, veil=hall.veil(), enrolled=IMAGES)


def difference(left: Any, right: Any) -> float:
    due = {name: tensor.double() for name, tensor in right.items()}
    return error_of(left, due)


def test_a_masked_run_ends_where_the_plain_one_does() -> None:
    run = run_of()
    plain = masked_study(Hall(), replace(run, secure_aggregation=None))

    hidden, shown = run_rounds(masked_study(Hall(), run), START), run_rounds(plain, START)

    assert hidden.round == 3
    assert difference(hidden.weights, shown.weights) < 1e-5
    assert [record.void for record in hidden.records] == [""] * 3


def test_a_masked_record_names_sites_and_tells_nothing_else_of_them() -> None:
    state = one_round(masked_study(Hall(), run_of()), START)

    assert [(one.site, one.images, dict(one.metrics)) for one in state.records[0].sites] == [
        (site, 0, {}) for site in IMAGES
    ]
    assert state.records[0].bytes_up > 4 * 4 * 7


def test_a_site_that_falls_silent_is_recorded_and_the_round_counts() -> None:
    state = one_round(masked_study(Hall({Delivery: {"b"}}), run_of()), START)

    assert record_of(state, "b").refused == "it did not answer in time"
    assert state.records[0].void == ""
    task = Task(run="", round=1, seed=0, weights=START.weights)
    parts = [IMAGES[site] * learned(site, task).delta["w"] for site in "acd"]
    due = torch.stack(parts).sum(0) / sum(IMAGES[site] for site in "acd")
    assert torch.allclose(state.weights["w"], due, atol=1e-6)


def test_a_site_whose_update_is_in_the_sum_took_part_though_it_left_after() -> None:
    state = one_round(masked_study(Hall({Survivors: {"b"}}), run_of()), START)

    assert record_of(state, "b").refused == ""


def test_too_few_sites_make_a_void_round_and_the_next_one_goes_on() -> None:
    hall = Hall({Invitation: {"a", "b"}})
    study = masked_study(hall, run_of())

    first = one_round(study, START)
    hall.silent.clear()
    second = one_round(study, first)

    assert first.records[0].void == "2 of 4 sites announced keys; the threshold is 3"
    assert [one.refused != "" for one in first.records[0].sites] == [True] * 4
    assert second.records[1].void == ""


def test_a_masked_round_serves_a_partial_cohort() -> None:
    state = run_rounds(masked_study(Hall(), run_of(cohort=0.75)), START)

    assert [len(record.sites) for record in state.records] == [3, 3, 3]
    assert not [record.void for record in state.records if record.void]


def test_a_round_done_anew_after_a_crash_is_a_new_attempt() -> None:
    """The server forgot a round that the sites remember: it is void, and the next one counts."""
    study = masked_study(Hall(), run_of())

    one_round(study, START)
    again = one_round(study, START)
    after = one_round(study, again)

    assert "0 of 4 sites announced keys" in again.records[0].void
    assert "had this site's masked update already" in record_of(again, "a").refused
    assert after.records[-1].void == ""


def test_no_site_counts_for_more_than_its_share_of_a_masked_mean() -> None:
    run = run_of(limits={"weight_share": 0.26})
    study = masked_study(Hall(), run)

    state = one_round(study, START)

    plain = one_round(replace(study, run=replace(run, secure_aggregation=None)), START)
    assert difference(state.weights, plain.weights) < 0.02  # the plain cap is a whole number
    uncapped = one_round(masked_study(Hall(), run_of()), START)
    assert difference(state.weights, uncapped.weights) > 0.02


@pytest.mark.parametrize(
    "rule", [name for name in RULES.names() if not RULES.member(name).sum_only]
)
def test_a_rule_that_looks_at_single_updates_is_refused_before_a_round(rule: str) -> None:
    hall = Hall()
    study = masked_study(hall, run_of(rule={"name": rule}))

    with pytest.raises(ConfigError, match=f"rule '{rule}' looks at single updates"):
        one_round(study, START)
    assert hall.attempts == 0


@pytest.mark.parametrize("limits", [{"clip_ratio": 2.0}, {"norm": 1.0}])
def test_limits_on_single_updates_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="look at single updates"):
        must_be_maskable(run_of(limits=limits))


def test_a_run_without_masks_may_have_any_rule() -> None:
    must_be_maskable(replace(run_of(rule={"name": "median"}), secure_aggregation=None))
    must_hide(replace(run_of(), secure_aggregation=None), 1)


def test_a_cohort_of_two_is_refused() -> None:
    with pytest.raises(ConfigError, match="among 2 sites: it takes 3 to 1024"):
        one_round(masked_study(Hall(), run_of(cohort=0.5)), START)


def test_masks_without_keys_to_the_sites_are_refused_and_nothing_is_asked() -> None:
    study = replace(masked_study(Hall(), run_of()), veil=None, ask=lambda *_: pytest.fail("asked"))

    with pytest.raises(RoundError, match="can't hold rounds under secure_aggregation"):
        one_round(study, START)


def test_an_unknown_weight_needs_a_largest_one() -> None:
    study = replace(masked_study(Hall(), run_of()), enrolled={})

    with pytest.raises(ConfigError, match="weight_max is open"):
        one_round(study, START)
    state = one_round(replace(study, run=run_of({"weight_max": 120})), START)
    assert state.records[0].void == ""


# ------------------------------------------------------------- offences, in plain rounds


def test_a_site_is_suspended_after_repeated_offence_and_asked_no_more() -> None:
    sites = {
        "good": answering("good"),
        "fine": answering("fine"),
        "bad": answering("bad", images=0),
    }
    state = START
    stage = Stage(sites, federation(rounds=5))

    for _ in range(4):
        state = one_round(stage.study, state)

    assert state.repute.suspended == ("bad",)
    assert [len(record.sites) for record in state.records] == [3, 3, 3, 2]


def test_silence_and_refusal_are_no_offence() -> None:
    state = START
    for _ in range(4):
        state = one_round(Stage({"a": answering("a"), "b": silent}).study, state)

    assert state.repute.suspended == ()


def test_a_weight_other_than_the_enrolled_one_is_left_out() -> None:
    stage = Stage({site: answering(site, images=5) for site in ("a", "b", "c")})

    state = one_round(replace(stage.study, enrolled={"a": 5, "b": 6, "c": 5}), START)

    assert "it names 5 images; it enrolled with 6" in record_of(state, "b").refused

"""A plan that trains nothing: how it reads, and what a policy says to it."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from described import describing_run

from confrere_client.hospital.plan import Plan
from confrere_client.hospital.plan_text import summary
from confrere_client.hospital.policy import Policy, RunClass, Verdict, judge
from confrere_client.hospital.registry import Registered
from confrere_common.family import Named
from confrere_common.loading import dump
from confrere_common.proposal import Proposal

WARD = Registered(
    name="ward", source=Named(name="phantom", knobs={}), images=90, patients=40, unknown_patients=3
)


def proposal() -> Proposal:
    return Proposal(
        run_id="census-1", study="demo", run=dump(describing_run()), code="0" * 64, sites=3,
        bytes_down=0, bytes_up=65_536, seed=0,
    )  # fmt: skip


def rows_of(policy: Policy, **asked: Any) -> dict[str, str]:
    run = dump(describing_run(describe=asked))
    plan = Plan(proposal=replace(proposal(), run=run), received="today")
    return dict(summary(plan, policy, {"ward": WARD}))


def verdict(**limits: Any) -> Verdict:
    now = datetime(2026, 5, 4, 12, tzinfo=UTC)
    policy = Policy(**limits)
    return judge(policy, proposal(), describing_run(), data_sets={"ward": WARD}, now=now)


def test_a_doctor_reads_what_would_be_counted_and_what_would_leave() -> None:
    rows = rows_of(Policy(min_cell=8), labels=["ill", "well"])

    assert rows["stage"].startswith("describe: nothing is trained")
    assert rows["labels counted"] == "ill, well"
    assert rows["smallest count"].startswith("8 patients: the run asks for 5")
    assert "90 images of 40 patients" in rows["data set"]
    assert "change of the shared weights" not in str(rows)
    assert "3 images have no known patient and are not counted" in rows["note"]
    assert "encoder" not in rows


def test_a_doctor_reads_what_a_hash_of_an_image_would_tell_and_to_whom() -> None:
    said = rows_of(Policy(duplicates=True), duplicates=True)["shared images"]

    assert "lets salted hashes leave" in said
    assert "who holds an image" in said
    assert "finds out whether this site has that very image" in said
    assert "180,000 at most" in said


def test_by_default_no_hash_would_leave_and_the_plan_says_so() -> None:
    said = rows_of(Policy(), duplicates=True)["shared images"]

    assert "Your policy (duplicates: false) lets none leave" in said


def test_a_run_that_does_not_ask_for_hashes_has_no_word_of_them() -> None:
    assert "shared images" not in rows_of(Policy(duplicates=True))


def test_where_sums_alone_may_leave_a_run_that_asks_for_hashes_is_refused_with_a_reason() -> None:
    policy = Policy(require_secure_aggregation=True, duplicates=True)
    run = describing_run(describe={"duplicates": True})

    found = judge(policy, proposal(), run, data_sets={"ward": WARD}, now=datetime.now(UTC))

    assert found.state == "refused"
    assert found.codes == ("policy-secure-aggregation",)
    assert found.sentences == ("It has no secure aggregation; your policy demands it.",)


def test_it_waits_for_a_person_whatever_methods_are_allowed() -> None:
    assert verdict(methods=("mae",), encoders=(), rules=()).codes == ("not-approved",)


def test_no_class_of_runs_approves_it_beforehand_whatever_method_it_names() -> None:
    kind = RunClass(study="demo", methods=("mae",), data_sets=("ward",), max_rounds=10)
    run = describing_run(method="mae")
    asked = replace(proposal(), run=dump(run))
    policy = Policy(preapproved_classes=(kind,))

    found = judge(policy, asked, run, data_sets={"ward": WARD}, now=datetime.now(UTC))

    assert found.codes == ("not-approved",)


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"stages": ("pretrain",)}, "policy-stage"),
        ({"max_epsilon": 8.0}, "policy-privacy"),
        ({"require_secure_aggregation": True}, "policy-secure-aggregation"),
        ({"min_images": 91}, "not-enough-images"),
    ],
)
def test_a_policy_can_forbid_it(limits: dict[str, Any], code: str) -> None:
    assert verdict(**limits).codes == (code,)


def test_a_run_s_own_limit_is_told_where_it_is_the_larger() -> None:
    run = describing_run(describe={"min_cell": 20})
    plan = Plan(proposal=replace(proposal(), run=dump(run)), received="today")

    rows = dict(summary(plan, Policy(), {}))

    assert rows["smallest count"].startswith("20 patients")
    assert rows["labels counted"].startswith("none by name")

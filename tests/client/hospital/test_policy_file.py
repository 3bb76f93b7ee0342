"""A policy's file explains itself, is read as it was written, and tells all faults at once."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from policies import policies

from confrere_client.hospital.policy import Policy, policy_text, read_policy
from confrere_common.errors import ConfigError
from confrere_common.section import documentation


@settings(deadline=None, max_examples=30)
@given(policy=policies())
def test_a_policy_written_is_read_as_it_was(
    policy: Policy, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("site") / "policy.yaml"
    path.write_text(policy_text(policy))

    assert read_policy(path) == policy


def test_the_written_policy_explains_every_line() -> None:
    text = policy_text(Policy())

    lines = text.splitlines()
    for name, said in documentation(Policy).items():
        place = next(number for number, line in enumerate(lines) if line.startswith(f"{name}:"))
        assert lines[place - 1].startswith("# ")
        assert said.split("\n")[0].split(";")[0] in text


def policy_faults(folder: Path, text: str) -> str:
    (folder / "policy.yaml").write_text(text)
    with pytest.raises(ConfigError) as told:
        read_policy(folder / "policy.yaml")
    return "\n".join(told.value.faults)


def test_all_faults_of_a_policy_are_told_at_once(tmp_path: Path) -> None:
    text = """
methods: [simcrl]
encoder: [vit]
hours: ["20-06"]
min_sites: 0
threads: yes
max_epsilon: .inf
metrics: [losses]
preapproved: [abc]
preapproved_classes: [{study: derm, methods: [mae], data_sets: [derm], rounds: 3}]
"""

    faults = policy_faults(tmp_path, text)

    for said in (
        "unknown method 'simcrl': did you mean 'simclr'?",
        "unknown key 'encoder': did you mean 'encoders'?",
        "'20-06' is no span of hours: write 20:00-06:00",
        "min_sites is 0",
        "threads is True",
        "max_epsilon is inf",
        "unknown figure 'losses': did you mean 'loss'?",
        "preapproved.0 is 'abc'",
        "preapproved_classes.0: unknown key 'rounds': did you mean 'max_rounds'?",
        "preapproved_classes.0.max_rounds is missing",
    ):
        assert said in faults


def test_a_policy_that_is_not_there_is_a_fault_and_an_empty_one_the_default(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"policy\.yaml"):
        read_policy(tmp_path / "policy.yaml")
    (tmp_path / "policy.yaml").write_text("")

    assert read_policy(tmp_path / "policy.yaml") == Policy()


def test_one_name_needs_no_brackets(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("methods: mae\nhours: 20:00-06:00\ndata_sets: []\n")

    policy = read_policy(tmp_path / "policy.yaml")

    assert (policy.methods, policy.hours, policy.data_sets) == (("mae",), ("20:00-06:00",), ())

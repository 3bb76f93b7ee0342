"""Secure aggregation in a whole federation: sums as without it, and rounds that outlive a death."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from federation import Federation, federation, wait_until
from safetensors.torch import load_file

from confrere_client.hospital.site import open_site

pytestmark = pytest.mark.long

MASKED = {"threshold": 0.75}
"""Each masked run below has a seed of its own: no site masks the same update in two runs."""


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory, snapshot: Path) -> Iterator[Federation]:
    names = ("alpha", "beta", "delta", "gamma")
    with federation(tmp_path_factory.mktemp("masked"), snapshot, names=names) as made:
        try:
            made.open(wired=False)
            made.wait(made.submit("warm", 1), 200)
            yield made
        except (TimeoutError, AssertionError):
            for who in ("server", *made.names):
                print(f"== {who}\n{made.tail(who)}")  # noqa: T201  (pytest shows it)
            raise


def encoder(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "encoder.safetensors")


def test_the_sum_under_masks_is_the_sum_without_to_the_fixed_point_s_step(four: Federation) -> None:
    plain, masked = four.submit("plain", 2), four.submit("masked", 2, masked=MASKED)

    four.wait(plain, 120)
    four.wait(masked, 120)

    one, other = encoder(plain.path), encoder(masked.path)
    assert all(torch.allclose(one[name], other[name], atol=2e-4) for name in one)
    assert [facts["sites"] for facts in four.closed(masked)] == ["alpha,beta,delta,gamma"] * 2
    # What a site sent is told in its own log as masked, and never as an update in the clear.
    assert len(four.events("alpha", "masked update leaves", masked)) == 2
    assert four.events("alpha", "update leaves", masked) == []


def test_a_round_outlives_a_site_that_dies_after_its_keys_are_out(four: Federation) -> None:
    run = four.submit("bereft", 3, masked=MASKED, quorum=0.75, min_sites=3, deadline_s=40.0, seed=1)

    wait_until(lambda: four.events("delta", "round begun", run), 60, "delta trains")
    four.kill("delta")
    four.wait(run, 200)
    four.start("delta")

    # The quorum may be there before the fourth site is: a death among three leaves two, whose round
    # is void, and its number is spent.
    (first, *_) = four.events("server", "asked", run)
    closed = four.closed(run)
    outlived = [1, 2, 3] if len(first["sites"].split(",")) == 4 else [2, 3]
    assert [facts["round"] for facts in closed] == outlived
    assert any("delta" not in facts["sites"].split(",") for facts in closed)
    assert all(len(facts["sites"].split(",")) >= 3 for facts in closed)


def test_a_server_that_dies_in_mid_round_goes_on_and_no_site_masks_twice(four: Federation) -> None:
    run = four.submit("orphaned", 3, masked=MASKED, quorum=0.75, min_sites=3, seed=2)

    wait_until(lambda: four.events("alpha", "masked update leaves", run), 90, "an update left")
    four.kill("server")
    four.start("server")
    four.wait(run, 200)

    # The round that was cut off may be void: its number is spent, and the run goes on.
    assert [facts["round"] for facts in four.closed(run)] in ([1, 2, 3], [2, 3])
    for name in four.names:
        left = [facts["round"] for facts in four.events(name, "masked update leaves", run)]
        updates = {
            (f["round"], f["update"]) for f in four.events(name, "masked update leaves", run)
        }
        assert len(updates) == len(set(left)), f"{name} masked twice for one round"


def test_the_plan_pins_everybody_s_key(four: Federation) -> None:
    run = four.runs[-1]
    plan = json.loads((four.folder("beta") / "plans" / run.path.name / "proposal.json").read_text())

    keys = {name: _signing_key(four, name) for name in four.names}

    assert plan["proposal"]["roster"] == keys


def _signing_key(made: Federation, name: str) -> str:

    return open_site(made.folder(name)).signing_key().public_key().public_bytes_raw().hex()

"""Every promise that privacy rests on is quoted, word for word, by a test that proves it."""

import inspect
import re
from pathlib import Path

import pytest

from confrere_client.privacy.budget import Ledger
from confrere_client.privacy.private import Private
from confrere_client.privacy.private_round import private_round
from confrere_common.privacy import accounting, ledger, mechanism

TESTS = Path(__file__).parents[2]

PROMISES = {
    "sampler": mechanism.chosen,
    "clip": mechanism.factors,
    "clipped sum": mechanism.clipped_sum,
    "noise": mechanism.noised,
    "accounting": accounting.epsilon,
    "chain": ledger.must_hold,
    "ledger": Ledger,
    "charge": Ledger.charge,
    "step": Private.step,
    "round": Private.gradients,
    "a hospital's round": private_round,
}


def plain(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def said() -> str:
    """Return the text of all tests."""
    return plain(" ".join(path.read_text() for path in TESTS.rglob("test_*.py")))


@pytest.mark.parametrize("name", PROMISES)
def test_a_promise_is_quoted_by_its_proof(name: str, said: str) -> None:
    found = re.search(
        r"Guarantee: (.*?)(?:\n\n|$)", inspect.getdoc(PROMISES[name]) or "", re.DOTALL
    )

    assert found
    assert f'"Guarantee: {plain(found[1])}"' in said

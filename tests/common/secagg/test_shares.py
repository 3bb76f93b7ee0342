"""A threshold of shares is the secret; one share less is nothing."""

import itertools
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confrere_common.secagg.shares import combine, split

SEED = bytes(range(16))


def placed(shares: tuple[bytes, ...]) -> dict[int, bytes]:
    return dict(enumerate(shares, start=1))


def is_seed(found: bytes) -> bool:
    return found == SEED


def always(found: bytes) -> bool:  # noqa: ARG001
    return True


@settings(deadline=None, max_examples=20)
@given(seed=st.binary(min_size=16, max_size=16), data=st.data())
def test_any_threshold_of_shares_gives_the_seed_back(seed: bytes, data: st.DataObject) -> None:
    count = data.draw(st.integers(3, 8))
    threshold = data.draw(st.integers(2, count))
    shares = placed(split(seed, threshold, count))
    chosen = data.draw(st.permutations(range(1, count + 1)))[:threshold]

    found = combine({place: shares[place] for place in chosen}, threshold, always)

    assert found == seed


def test_every_set_of_four_of_five_gives_it_back_and_none_of_three() -> None:
    shares = placed(split(SEED, 4, 5))

    for chosen in itertools.combinations(shares, 4):
        assert combine({place: shares[place] for place in chosen}, 4, is_seed) == SEED
    for chosen in itertools.combinations(shares, 3):
        assert combine({place: shares[place] for place in chosen}, 4, is_seed) is None
        assert combine({place: shares[place] for place in chosen}, 3, always) != SEED


def bits(value: bytes) -> np.ndarray:
    return np.unpackbits(np.frombuffer(value, np.uint8))


def rank(matrix: np.ndarray) -> int:
    """Return the rank over the field of two elements."""
    matrix, found = matrix.copy(), 0
    for column in range(matrix.shape[1]):
        rows = np.flatnonzero(matrix[found:, column]) + found
        if len(rows):
            matrix[[found, rows[0]]] = matrix[[rows[0], found]]
            others = [row for row in np.flatnonzero(matrix[:, column]) if row != found]
            matrix[others] ^= matrix[found]
            found += 1
    return found


@pytest.mark.parametrize(("threshold", "count"), [(2, 3), (4, 5), (7, 10)])
def test_one_share_less_than_the_threshold_reveals_nothing(threshold: int, count: int) -> None:
    """Beside t-1 true shares, each seed there is goes with exactly one value of another share.

    The seed is an affine function of that value over 128 bits; where it has full rank, it is one to
    one, so the t-1 shares bear every seed equally.
    """
    shares = placed(split(os.urandom(16), threshold, count))
    known = {place: shares[place] for place in range(1, threshold)}

    def seed_with(value: bytes) -> np.ndarray:
        found = combine({**known, count: value}, threshold, always)
        assert found is not None
        return bits(found)

    origin = seed_with(bytes(16))
    moves = [seed_with((1 << bit).to_bytes(16, "big")) ^ origin for bit in range(128)]

    assert rank(np.array(moves)) == 128


def test_shares_of_one_seed_differ_each_time() -> None:
    assert split(SEED, 3, 4) != split(SEED, 3, 4)


def test_a_false_share_is_passed_over_when_there_are_enough_true_ones() -> None:
    shares = placed(split(SEED, 4, 6))
    shares[1] = os.urandom(16)

    assert combine(shares, 4, is_seed) == SEED
    assert combine({place: shares[place] for place in (1, 2, 3, 4)}, 4, is_seed) is None

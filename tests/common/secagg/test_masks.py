"""Masks cancel to the bit, look like nothing, and are another for every purpose."""

import os

import numpy as np
import pytest
from scipy import stats

from confrere_common.errors import ExchangeError
from confrere_common.secagg import masks
from confrere_common.secagg.fixed_point import CHUNK

PARAMS = "ef" * 32


def key(number: int) -> bytes:
    return bytes([number]) * 32


def pair(seed_one: bytes, seed_two: bytes):
    return tuple(masks.private_of(seed, PARAMS, "mask") for seed in (seed_one, seed_two))


def test_two_sites_make_the_same_key_and_a_third_another() -> None:
    one, two = pair(bytes(16), bytes([1] * 16))
    three = masks.private_of(bytes([2] * 16), PARAMS, "mask")

    here = masks.pair_key(one, masks.public_of(two), PARAMS, ("a", "b"))
    there = masks.pair_key(two, masks.public_of(one), PARAMS, ("b", "a"))

    assert here == there
    assert here != masks.pair_key(one, masks.public_of(three), PARAMS, ("a", "b"))
    assert here != masks.pair_key(one, masks.public_of(two), "00" * 32, ("a", "b"))
    assert here != masks.pair_key(one, masks.public_of(two), PARAMS, ("a", "c"))


@pytest.mark.parametrize("length", [1, 2, CHUNK - 1, CHUNK, 2 * CHUNK + 3])
def test_what_is_added_and_subtracted_is_gone(length: int) -> None:
    vector = np.arange(length, dtype=np.uint32)

    masks.add_masks(vector, [key(1), key(2)], [key(3)])
    changed = vector.copy()
    masks.add_masks(vector, [key(3)], [key(1), key(2)])

    assert np.array_equal(vector, np.arange(length, dtype=np.uint32))
    assert not np.array_equal(changed, vector)


def test_a_mask_does_not_depend_on_where_chunks_end() -> None:
    long, short = np.zeros(CHUNK + 7, np.uint32), np.zeros(5, np.uint32)

    masks.add_masks(long, [key(1)], [])
    masks.add_masks(short, [key(1)], [])

    assert np.array_equal(long[:5], short)
    assert not np.array_equal(long[CHUNK : CHUNK + 5], short)


def test_a_mask_is_evenly_spread_over_all_values() -> None:
    vector = np.zeros(200_000, np.uint32)

    masks.add_masks(vector, [os.urandom(32)], [])

    for shift in (0, 8, 16, 24):
        counts = np.bincount((vector >> shift) & 255, minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-6


def test_a_public_key_of_low_order_is_refused() -> None:
    one, _ = pair(bytes(16), bytes([1] * 16))

    for public in (bytes(32), bytes([1, *[0] * 31])):
        with pytest.raises(ExchangeError, match="low order"):
            masks.agreed(one, public)


def test_a_box_opens_for_its_key_and_context_alone() -> None:
    box = masks.seal(key(1), b"shares", b"round 1", os.urandom)

    assert masks.unseal(key(1), box, b"round 1") == b"shares"
    for other in (
        masks.unseal(key(2), box, b"round 1"),
        masks.unseal(key(1), box, b"round 2"),
        masks.unseal(key(1), box[:-1] + bytes([box[-1] ^ 1]), b"round 1"),
        masks.unseal(key(1), box[:5], b"round 1"),
    ):
        assert other is None


def test_purposes_do_not_run_into_each_other() -> None:
    assert masks.derive(key(1), "ab", "c") != masks.derive(key(1), "a", "bc")
    assert masks.derive(key(1), 'a", "b') != masks.derive(key(1), "a", "b")


@pytest.mark.parametrize("place", range(32))
def test_every_byte_of_a_mask_s_key_counts(place: int) -> None:
    """A generator seeded with 32 bits of 256 can be searched: Flower's was, in 46 s."""
    other = bytearray(key(1))
    other[place] ^= 1
    one, two = np.zeros(4096, np.uint32), np.zeros(4096, np.uint32)

    masks.add_masks(one, [key(1)], [])
    masks.add_masks(two, [bytes(other)], [])

    assert np.count_nonzero(one == two) < 3


def test_a_fold_of_a_key_s_words_is_another_mask() -> None:
    """Two keys whose 32-bit words have one exclusive or: a folded key could not tell them apart."""
    words = np.arange(8, dtype=np.uint32)
    swapped = words[::-1].copy()
    one, two = np.zeros(64, np.uint32), np.zeros(64, np.uint32)

    masks.add_masks(one, [words.tobytes()], [])
    masks.add_masks(two, [swapped.tobytes()], [])

    assert np.bitwise_xor.reduce(words) == np.bitwise_xor.reduce(swapped)
    assert not np.array_equal(one, two)

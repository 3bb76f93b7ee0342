"""Shamir's shares of a 128-bit seed (https://doi.org/10.1145/359168.359176), by pycryptodome.

Fewer shares than the threshold say nothing at all of the seed, whatever is computed with them.
"""

from collections.abc import Callable, Mapping
from itertools import combinations, islice

from Crypto.Protocol.SecretSharing import Shamir

TRIES = 64
"""Sets of shares tried before a seed counts as lost: some sites may have given false ones."""


def split(seed: bytes, threshold: int, count: int) -> tuple[bytes, ...]:
    """Return *count* shares, the first at place 1; any *threshold* of them give the seed back."""
    return tuple(share for _, share in Shamir.split(threshold, count, seed, ssss=False))


def combine(
    shares: Mapping[int, bytes], threshold: int, right: Callable[[bytes], bool]
) -> bytes | None:
    """Return the seed that *right* confirms from some *threshold* of the shares, by their places.

    None when there are too few, or when too many of them are false.
    """
    places = sorted(shares)
    for chosen in islice(combinations(places, threshold), TRIES):
        seed = bytes(Shamir.combine([(place, shares[place]) for place in chosen], ssss=False))
        if right(seed):
            return seed
    return None

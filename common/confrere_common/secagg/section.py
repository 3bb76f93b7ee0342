"""What a run says of secure aggregation, and the least that a site ever accepts."""

import math
from typing import Annotated

from pydantic import Field

from confrere_common.section import section

SITES_AT_LEAST = 3
"""Of a sum of two, each site knows the other's part."""

SITES_AT_MOST = 1024
"""So that at least 22 bits stay for a value."""

MODULUS_BITS = 32
"""Sums are taken modulo 2 ** 32: an upload is as large as one of float32."""

_SLACK = 1e-9


@section
class SecureAggregation:
    """The coordinator learns the sum of the updates, and no single one of them."""

    threshold: Annotated[float, Field(ge=2 / 3, le=1)] = 2 / 3
    """Share of the asked sites that must stay to the end, rounded up; fewer make a round void."""

    bits: Annotated[int, Field(ge=16, le=26)] = 26
    """Bits of one value before the sum; 26 suffice for 64 sites, each doubling takes one bit."""

    clip: Annotated[float, Field(gt=0, le=1000)] = 0.25
    """Largest change of one weight in a round. Larger ones are cut to it; where that would change
    an update by more than a hundredth of its energy the site refuses, and this must be raised."""

    weight_max: Annotated[int, Field(ge=1, le=2**22)] | None = None
    """Images that a site counts for at most; absent means as many as the largest site enrolled."""


def least_threshold(sites: int) -> int:
    """Return the fewest survivors that keep one update hidden: two thirds, and over a half."""
    return max(math.ceil(2 * sites / 3 - _SLACK), sites // 2 + 1)


def threshold_of(share: float, sites: int) -> int:
    """Return how many of *sites* must stay to the end."""
    return max(math.ceil(share * sites - _SLACK), least_threshold(sites))


def bits_within(bits: int, sites: int) -> int:
    """Return the bits of a value, so many that the sum of *sites* values does not wrap around."""
    return min(bits, MODULUS_BITS - math.ceil(math.log2(max(2, sites))))

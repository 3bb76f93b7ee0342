"""Policies drawn at random, with limits that a run may keep or not."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from proposed import ALLOWED

from confrere_client.hospital.policy import TELLABLE, Policy
from confrere_common.encoder import ENCODERS
from confrere_common.method import METHODS

RULES = ("mean", "median", "trimmed_mean")
CLASSES = (ALLOWED, replace(ALLOWED, methods=METHODS.names(), max_rounds=10**6))


def some(*values: Any) -> st.SearchStrategy[Any]:
    chosen = st.lists(st.sampled_from(values), unique=True, max_size=len(values)).map(tuple)
    return st.none() | chosen


LIMITS: Mapping[str, st.SearchStrategy[Any]] = {
    "data_sets": some("derm", "chest"),
    "methods": some(*METHODS.names()),
    "encoders": some(*ENCODERS.names()),
    "stages": some("pretrain"),
    "rules": some(*RULES),
    "max_epsilon": st.none() | st.floats(0.1, 10),
    "require_secure_aggregation": st.booleans(),
    "min_sites": st.integers(1, 4),
    "hours": some("20:00-06:00", "10:00-14:00", "11:30-12:30", "00:00-24:00"),
    "threads": st.none() | st.integers(1, 8),
    "gpus": some(0, 1, 2),
    "max_bytes_per_round": st.integers(1, 4000),
    "max_images": st.none() | st.integers(1, 100),
    "min_images": st.integers(1, 70),
    "min_cell": st.integers(2, 70),
    "metrics": some(*TELLABLE).map(lambda names: names or ()),
    "metric_digits": st.integers(1, 17),
}


@st.composite
def policies(draw: st.DrawFn, limit: str = "") -> Policy:
    """Draw a policy with a few limits, *limit* among them: with all of them nothing would pass."""
    others = draw(st.lists(st.sampled_from(sorted(LIMITS)), unique=True, max_size=2))
    values = {name: draw(LIMITS[name]) for name in {*others, limit or "hours"}}
    kinds = draw(st.sampled_from([CLASSES, CLASSES[1:], CLASSES[:1], ()]))
    return Policy(**{"min_sites": 1, "preapproved_classes": kinds, **values})

"""How well features find what is alike: precision among the first k, and mean average precision.

A query ranks the gallery by cosine. The conventions:

- Items of the query's own patient are taken out of the gallery before anything is ranked; else a
  second slice of the same lesion would be "found". Where gallery and queries are the same images,
  that takes out the query itself too.
- A query of whose class nothing is left cannot be answered: it is NaN and has no part in a mean.
- Precision among the first k divides by k, or by what the gallery still holds if that is less.
- Average precision divides by all that is relevant in the gallery and looks at the whole ranking;
  at R, the number of relevant items, it looks at the first R (https://arxiv.org/abs/2003.08505).
- Equally near items stand in the order of the gallery.

Shapes: Q queries, G items of the gallery, F features.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confrere_client.measure.intervals import Floats
from confrere_client.measure.probe import Integers, Labelled
from confrere_common.errors import DataError

FIRST = (1, 5, 10)
BLOCK = 256
"""Queries ranked at once: memory does not grow with their number."""


@dataclass(frozen=True, kw_only=True)
class Retrieved:
    """What each query found; NaN where nothing relevant is in the gallery."""

    precision: Mapping[int, Floats]
    """k -> precision of each query among its first k, shape (Q,)."""

    average_precision_Q: Floats
    average_precision_at_r_Q: Floats


def retrieved(queries: Labelled, gallery: Labelled, first: Sequence[int] = FIRST) -> Retrieved:
    """Return what each query finds in the gallery; DataError when either is empty or widths differ.

    Patients are numbered alike in both: equal numbers mean the same patient.
    """
    _must_serve(queries, gallery)
    parts = [_of_block(relevant, rest, first) for relevant, rest in _ranked(queries, gallery)]
    precision, average, at_r = zip(*parts, strict=True)
    return Retrieved(
        precision={k: np.concatenate([part[k] for part in precision]) for k in first},
        average_precision_Q=np.concatenate(average),
        average_precision_at_r_Q=np.concatenate(at_r),
    )


def _must_serve(queries: Labelled, gallery: Labelled) -> None:
    if not len(queries.features) or not len(gallery.features):
        raise DataError(
            f"{len(queries.features)} queries and {len(gallery.features)} images to search: "
            "retrieval needs at least one of each."
        )
    if queries.features.shape[1] != gallery.features.shape[1]:
        raise DataError(
            f"queries have {queries.features.shape[1]} features and the gallery "
            f"{gallery.features.shape[1]}: embed both with the same encoder."
        )


def _ranked(queries: Labelled, gallery: Labelled) -> Iterator[tuple[NDArray[np.bool_], Integers]]:
    """Yield, for blocks of queries, which ranked items are relevant, and how many may be ranked.

    Items of the query's own patient stand last and are never relevant.
    """
    gallery_GF = _unit(gallery.features)
    for start in range(0, len(queries.labels), BLOCK):
        some = slice(start, start + BLOCK)
        own_QG = queries.patients[some, None] == gallery.patients
        close_QG = _unit(queries.features[some]) @ gallery_GF.T
        order_QG = np.argsort(np.where(own_QG, np.inf, -close_QG), axis=1, kind="stable")
        alike_QG = (queries.labels[some, None] == gallery.labels) & ~own_QG
        yield np.take_along_axis(alike_QG, order_QG, axis=1), (~own_QG).sum(axis=1)


def _of_block(
    relevant_QG: NDArray[np.bool_], rest_Q: Integers, first: Sequence[int]
) -> tuple[dict[int, Floats], Floats, Floats]:
    hits_QG = np.cumsum(relevant_QG, axis=1)
    count_Q = np.maximum(hits_QG[:, -1], 1)
    gains_QG = relevant_QG * hits_QG / np.arange(1, relevant_QG.shape[1] + 1)
    within_r_QG = np.arange(relevant_QG.shape[1]) < count_Q[:, None]
    answerable_Q = hits_QG[:, -1] > 0

    def known(values_Q: Floats) -> Floats:
        return np.where(answerable_Q, values_Q, np.nan)

    precision = {k: known(relevant_QG[:, :k].sum(axis=1) / np.clip(rest_Q, 1, k)) for k in first}
    at_r_Q = (gains_QG * within_r_QG).sum(axis=1) / count_Q
    return precision, known(gains_QG.sum(axis=1) / count_Q), known(at_r_Q)


def _unit(features: NDArray[Any]) -> NDArray[np.float32]:
    features = np.asarray(features, np.float32)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(lengths, 1e-12))

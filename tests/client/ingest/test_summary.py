import json
from collections.abc import Mapping
from typing import Any

import pytest

from confrere_client.ingest.judging.judge import Judgement
from confrere_client.ingest.judging.summary import NAMED_AT_MOST, Tally, summary_of
from confrere_client.ingest.keeping.dataset import SCHEMA

NOTHING = Judgement(
    flags={}, alike={}, duplicate_groups=0, near_groups=0, across_patients=0
)  # fmt: skip


def row(patient: int, stain: Mapping[str, Any] | None = None, **cells: Any) -> dict[str, Any]:
    record = {
        "modality": "sm",
        "scale": {"kind": "as stored"},
        **({"stain": stain} if stain else {}),
    }
    return {
        **dict.fromkeys(SCHEMA.names, ""), "patient": f"{patient:032x}", "patient_known": True,
        "warnings": [], "flags": [], "histogram": [1] * 32, "spacing_mm": [], "shape": [1, 8, 8],
        "dims": 2, "mask": None, "nbytes": 64, "preprocessing": json.dumps(record), **cells,
    }  # fmt: skip


def summary(*rows: dict[str, Any]) -> dict[str, Any]:
    tally = Tally()
    assert [*tally.watching(rows)] == [*rows]
    return summary_of(tally, NOTHING, {}, [])


def test_of_many_labels_the_rarest_stand_together_and_a_patient_counts_once() -> None:
    rows = [row(7 << 64, label=f"label {n:03}") for n in range(NAMED_AT_MOST + 5)]

    cells = summary(*rows)["tables"]["label"]

    assert len(cells) == NAMED_AT_MOST + 1
    assert cells[-1] == {"value": "others", "exams": 5, "patients": 1}


def test_the_stain_of_slides_is_told_as_a_mean_over_tiles_and_of_how_many_patients() -> None:
    stain = {
        "tissue": 0.5, "density_mean": [0.2, 0.4, 0.3], "density_spread": [0.1, 0.1, 0.1],
        "haematoxylin": 0.3, "eosin": 0.2,
    }  # fmt: skip
    darker = {**stain, "tissue": 0.7, "density_mean": [0.4, 0.4, 0.5], "haematoxylin": 0.5}

    told = summary(row(1 << 64, stain), row(2 << 64, darker), row(2 << 64, {"tissue": 0.0}))[
        "stain"
    ]

    assert told == {
        "tiles": 3, "patients": 2, "tissue": 0.4, "density_mean": pytest.approx([0.3, 0.4, 0.4]),
        "density_spread": pytest.approx([0.1, 0.1, 0.1]), "haematoxylin": 0.4, "eosin": 0.2,
    }  # fmt: skip


def test_where_nothing_is_stained_nothing_is_told_of_it() -> None:
    assert summary(row(1 << 64))["stain"] == {}

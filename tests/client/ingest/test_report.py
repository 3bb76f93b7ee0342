from typing import Any

from confrere_client.ingest.judging.report import page_of
from confrere_client.ingest.judging.summary import shared, spacing_name


def summary(**patients: int) -> dict[str, Any]:
    cells = [{"value": name, "exams": n, "patients": n} for name, n in patients.items()]
    whole = {"exams": sum(patients.values()), "patients": sum(patients.values())}
    return {
        **whole,
        "exams_of_unknown_patients": 0,
        "exams_with_masks": 1,
        "exams_with_boxes": 2,
        "box_faults": {"box has no area": 3},
        "pixel_bytes": 10,
        "tables": {"label": cells},
        "brightness": {"ct": [0, 3, 9], "mr": [0, 0, 0]},
        "preprocessing": {"ct: hu windows (wide)": 4},
        "warnings": {},
        "flags": {"duplicate": 1},
        "duplicate_groups": 1,
        "near_duplicate_groups": 0,
        "groups_across_patients": 0,
        "skipped": {"truncated": 2},
        "shared": shared({"label": cells}, whole),
    }


def test_the_page_shows_counts_and_takes_nothing_for_markup() -> None:
    page = page_of(summary(**{"<script>": 40, "nv": 30, "mel": 2}), [])

    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "truncated" in page
    assert "(2 hidden)" in page
    assert "http" not in page


def test_a_small_data_set_shares_nothing() -> None:
    assert "Nothing: the data set has fewer than 5 patients" in page_of(summary(nv=4), [])


def test_a_data_set_of_hidden_cells_alone_has_a_page() -> None:
    assert "(3 hidden)" in page_of(summary(a=2, b=3, c=4), [])


def test_equal_scanners_fall_together() -> None:
    assert (
        spacing_name([5.0, 0.70312, 0.70312]) == spacing_name([5.0, 0.7, 0.7]) == "5 x 0.7 x 0.7 mm"
    )
    assert spacing_name([]) == "not said"

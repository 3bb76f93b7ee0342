from typing import Any

from confrere_client.ingest.judging.report import page_of
from confrere_client.ingest.judging.summary import spacing_name
from confrere_common.describe import MEASURES

CELL = {"value": "ward 4", "exams": 1, "patients": 1}
UNTOLD = {"cells": [], "untold": 72}
PART = {
    "dims": 2,
    "images": 80,
    "patients": 72,
    "smallest": 5,
    "counts": {
        **dict.fromkeys((*MEASURES, "label"), UNTOLD),
        "bits": {"cells": [[0, 1, 60]], "untold": 12},
    },
}


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
        "stain": {},
        "warnings": {},
        "flags": {"duplicate": 1},
        "duplicate_groups": 1,
        "near_duplicate_groups": 0,
        "groups_across_patients": 0,
        "skipped": {"truncated": 2},
        "shared": [PART],
    }


def test_the_page_shows_counts_and_takes_nothing_for_markup() -> None:
    page = page_of(summary(**{"<script>": 40, "nv": 30, "mel": 2}), [])

    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "truncated" in page
    assert "80 images" in page
    assert '<tr><td>8</td><td class="n">60</td></tr>' in page
    assert '<tr><td>not told</td><td class="n">12</td></tr>' in page
    assert "exams.csv" in page
    assert "http" not in page


def test_what_somebody_wrote_is_marked_so_that_the_search_for_names_knows_it() -> None:
    page = page_of({**summary(nv=4), "tables": {"label": [CELL], "vendor": [CELL]}}, [])

    assert page.count("<td data-written>ward 4</td>") == 1
    assert page.count("<td>ward 4</td>") == 1


def test_a_small_data_set_shares_nothing_nor_one_that_may_not_be_trained_on() -> None:
    few = {"dims": 3, "images": 4, "patients": None, "smallest": 5, "counts": None}

    assert "fewer than 5 patients" in page_of({**summary(nv=4), "shared": [few]}, [])
    assert "No image may be trained on" in page_of({**summary(nv=4), "shared": []}, [])


def test_the_mean_stain_of_slides_is_shown() -> None:
    stain = {"tiles": 9, "tissue": 0.61, "patients": 2}
    whole = {**stain, "density_mean": [0.2, 0.41, 0.3], "haematoxylin": 0.5, "eosin": 0.25}

    assert "9 tiles of stained tissue, mean: 61 %" in page_of({**summary(a=4), "stain": stain}, [])
    assert "0.20, 0.41, 0.30 (red" in page_of({**summary(a=4), "stain": whole}, [])


def test_equal_scanners_fall_together() -> None:
    assert (
        spacing_name([5.0, 0.70312, 0.70312]) == spacing_name([5.0, 0.7, 0.7]) == "5 x 0.7 x 0.7 mm"
    )
    assert spacing_name([]) == "not said"

from typing import Any

import numpy as np
import pytest

from confrere_common.errors import DataError
from confrere_deploy.report.images import cells
from confrere_deploy.report.pictures import Pictures

MAP = np.zeros((4, 2))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"embedding_N2": np.zeros((4, 3))}, r"shape \(4, 3\)"),
        ({"embedding_N2": MAP, "sites": np.array(["a"])}, "4 images but sites has shape"),
        ({"embedding_N2": MAP, "classes": np.full(4, 2), "class_names": ("a",)}, "class 2 has no"),
        ({"samples": np.zeros((2, 2, 8, 8, 2), np.uint8)}, r"1 or 3"),
        ({"samples": np.zeros((2, 2, 8, 8, 1))}, "float64"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        Pictures(**given)


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_are_few_and_carried_within_the_page(channels: int) -> None:
    images = np.zeros((20, 20, 300, 200, channels), np.uint8)

    made = cells(images)

    assert (len(made), len(made[0])) == (8, 8)
    assert all(cell.startswith("data:image/jpeg;base64,") for row in made for cell in row)

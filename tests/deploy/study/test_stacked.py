"""Answers of several sites stand in the order of their images, and hold what all of them told."""

import numpy as np

from confrere_deploy.study.finetuning import stacked


def test_what_one_site_cannot_tell_is_left_out_and_the_rest_keeps_its_images() -> None:
    north = {"dice": np.array([0.1, 0.3]), "mm": np.array([1.0, 3.0])}, np.array([1, 3])
    south = {"dice": np.array([0.0, 0.2])}, np.array([0, 2])

    for parts in ([north, south], [south, north]):
        answers, rows = stacked(parts)

        assert rows.tolist() == [0, 1, 2, 3]
        assert answers.keys() == {"dice"}
        assert answers["dice"].tolist() == [0.0, 0.1, 0.2, 0.3]

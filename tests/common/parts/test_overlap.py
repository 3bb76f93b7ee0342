"""Soft Dice is that of sets where masks are hard, and each image's own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from confrere_common.parts.overlap import soft_dice


@given(one=st.integers(0, 2**9 - 1), two=st.integers(0, 2**9 - 1))
@settings(deadline=None, max_examples=30)
def test_of_hard_masks_it_is_the_dice_of_sets(one: int, two: int) -> None:
    bits = [[float(mask >> bit & 1) for bit in range(9)] for mask in (one, two)]
    first, second = (torch.tensor(row).view(1, 1, 3, 3) for row in bits)

    found = soft_dice(first, second, smooth=1e-6)

    areas = (one.bit_count(), two.bit_count())
    due = 2 * (one & two).bit_count() / sum(areas) if any(areas) else 1.0
    assert found.item() == pytest.approx(1 - due, abs=1e-4)


def test_each_image_and_class_has_its_own() -> None:
    guesses, masks = torch.rand(3, 2, 4, 4), (torch.rand(3, 2, 4, 4) > 0.5).float()

    together = soft_dice(guesses, masks)

    for image in range(3):
        alone = soft_dice(guesses[image : image + 1, 1:], masks[image : image + 1, 1:])
        torch.testing.assert_close(together[image, 1:], alone[0])

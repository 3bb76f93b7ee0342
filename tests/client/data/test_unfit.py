"""What was made to fit a network comes back to where it lay."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from confrere_client.data import boxes
from confrere_client.data.decode import fit
from confrere_client.data.masks import fitted
from confrere_client.data.unfit import likeliest, unfitted

SIZES = st.tuples(st.integers(1, 90), st.integers(1, 90))


@given(sides=SIZES, px=st.integers(8, 64))
def test_a_flat_map_stays_flat_at_the_image_s_own_size(sides: tuple[int, int], px: int) -> None:
    seen = torch.from_numpy(fit(np.full((1, *sides), 255, np.uint8), px)[0]).float()

    back = unfitted(seen, sides)

    assert tuple(back.shape) == sides
    assert torch.allclose(back, torch.full(sides, 255.0), atol=1e-3)  # nothing of the black around


@pytest.mark.parametrize("sides", [(40, 64), (64, 40), (20, 32), (128, 64), (12, 20, 16)])
def test_a_mask_comes_back_to_where_it_was(sides: tuple[int, ...]) -> None:
    mask = np.zeros(sides, np.uint8)
    mask[tuple(slice(side // 4, side // 2) for side in sides)] = 1
    mask[tuple(slice(side // 2, 3 * side // 4) for side in sides)] = 2
    seen = fitted(mask, (32,) * len(sides))
    probable = torch.stack([torch.from_numpy(seen == kind).float() for kind in range(3)])

    back = likeliest(probable, sides)

    for kind in (1, 2):
        both = ((back == kind) & (mask == kind)).sum() * 2
        assert both / ((back == kind).sum() + (mask == kind).sum()) > 0.85


def test_at_its_own_size_the_likeliest_class_is_the_largest_probability() -> None:
    probable = torch.rand(4, 6, 9, 5).softmax(0)

    assert np.array_equal(likeliest(probable, (6, 9, 5)), probable.argmax(0).numpy())


@given(
    frame=st.tuples(st.integers(4, 900), st.integers(4, 900)),
    corners=st.tuples(*[st.floats(0, 1)] * 4),
    px=st.integers(16, 256),
)
def test_a_box_comes_back_to_its_corners(
    frame: tuple[int, int], corners: tuple[float, ...], px: int
) -> None:
    own = [share * side for share, side in zip(corners, (*frame, *frame), strict=True)]

    back = boxes.unfitted(boxes.fitted(own, frame, (px, px)), frame, (px, px))

    assert back == pytest.approx(own, abs=1e-6 * max(frame))


def test_a_box_beside_the_image_is_cut_to_nothing() -> None:
    left, top, right, bottom = boxes.unfitted((2, 0, 30, 5), (64, 16), (32, 32))

    assert (left, right) == (4, 60)
    assert top == bottom == 0

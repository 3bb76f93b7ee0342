"""The component tree: what each voxel is told of its part, against a tree grown by hand."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from confrere_common.parts.component_tree import ATTRIBUTES, attributes, quantised

LEVELS = 4
Place = tuple[int, ...]
images = arrays(np.int32, st.sampled_from([(1, 1), (4, 5), (3, 3, 3)]), elements=st.integers(0, 3))


def part_of(image: NDArray[np.int32], start: Place, level: int) -> set[Place]:
    """Flood from a voxel over its neighbours at or above a level."""
    found, ahead = {start}, [start]
    while ahead:
        for place in around(ahead.pop(), image.shape):
            if place not in found and image[place] >= level:
                found.add(place)
                ahead.append(place)
    return found


def around(place: Place, shape: Place) -> Iterator[Place]:
    for step in np.ndindex((3,) * len(shape)):
        moved = tuple(int(at + by - 1) for at, by in zip(place, step, strict=True))
        if all(0 <= at < side for at, side in zip(moved, shape, strict=True)):
            yield moved


@given(image=images)
@settings(deadline=None, max_examples=25)
def test_every_attribute_is_that_of_the_part_found_by_flooding(image: NDArray[np.int32]) -> None:
    found = attributes(image, LEVELS)

    for place in np.ndindex(image.shape):
        level = int(image[place])
        part = part_of(image, place, level)
        nodes = [
            lower
            for lower in range(level)
            if any(image[other] == lower for other in part_of(image, place, lower))
        ]
        below = nodes[-1] if nodes else int(image.min())
        top = max(int(image[other]) for other in part)
        assert found["depth"][place] == pytest.approx(len(nodes) / (LEVELS - 1))
        assert found["contrast"][place] == pytest.approx((top - below) / (LEVELS - 1))
        whole = np.log(max(image.size, 2))
        assert found["area"][place] == pytest.approx(np.log(len(part)) / whole, abs=1e-6)


@given(image=images)
@settings(deadline=None, max_examples=25)
def test_every_attribute_is_between_0_and_1(image: NDArray[np.int32]) -> None:
    for name, values in attributes(image, LEVELS).items():
        assert name in ATTRIBUTES
        assert values.min() >= 0
        assert values.max() <= 1


@given(image=images, axis=st.sampled_from([0, 1, -1]))
@settings(deadline=None, max_examples=25)
def test_mirrors_of_an_image_have_mirrored_attributes(image: NDArray[np.int32], axis: int) -> None:
    found, mirrored = attributes(image, LEVELS), attributes(np.flip(image, axis), LEVELS)

    for name in ATTRIBUTES:
        np.testing.assert_allclose(np.flip(found[name], axis), mirrored[name], atol=1e-6)


def test_a_disc_is_more_compact_than_a_line() -> None:
    rows, columns = np.indices((32, 32))
    disc = ((rows - 10) ** 2 + (columns - 10) ** 2 <= 36).astype(np.int32)
    line = np.zeros((32, 32), np.int32)
    line[28, 2:30] = 1

    found = attributes(disc + line, 2)["compactness"]

    assert found[10, 10] > 0.95
    assert found[28, 10] < 0.2


def test_steps_of_brightness_are_relative_to_the_image() -> None:
    image = np.array([[10, 20], [30, 50]])

    steps = quantised(image, 4)

    assert steps.tolist() == [[0, 1], [2, 3]]
    np.testing.assert_array_equal(quantised(image * 3 + 7, 4), steps)
    assert not quantised(np.full((2, 2), 9), 4).any()

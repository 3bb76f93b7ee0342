"""Otsu's threshold parts each image by itself, as far apart as its intensities allow."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from confrere_common.parts import otsu


def image(seed: int, size: tuple[int, ...] = (12, 10)) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    levels = torch.rand(6, generator=generator)
    return levels[torch.randint(0, 6, (1, 1, *size), generator=generator)]


def apart(values: Tensor, cut: float) -> float:
    """The variance between what lies below *cut* and what reaches it."""
    below, above = values[values < cut], values[values >= cut]
    if not len(below) or not len(above):
        return 0.0
    parts = len(below) * len(above) / len(values) ** 2
    return parts * float(below.mean() - above.mean()) ** 2


@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=25)
def test_no_other_threshold_sets_the_classes_further_apart(seed: int) -> None:
    values = image(seed)

    found = float(otsu.thresholds(values)[0])

    best = max(apart(values, float(cut)) for cut in values.unique())
    assert apart(values, found) >= best - 3e-3 * best


@given(seed=st.integers(0, 2**31), gain=st.floats(0.1, 50), shift=st.floats(-20, 20))
@settings(deadline=None, max_examples=25)
def test_gain_and_brightness_change_no_mask(seed: int, gain: float, shift: float) -> None:
    values = image(seed).double()

    assert torch.equal(otsu.bright(gain * values + shift), otsu.bright(values))


@pytest.mark.parametrize("size", [(8, 9), (4, 5, 6)], ids=["2-D", "3-D"])
def test_each_image_has_its_own_threshold(size: tuple[int, ...]) -> None:
    images = torch.cat([image(1, size), 100 * image(2, size)])

    together = otsu.bright(images)

    assert torch.equal(together[:1], otsu.bright(images[:1]))
    assert torch.equal(together[1:], otsu.bright(images[1:]))


def test_nothing_is_bright_in_a_constant_image() -> None:
    assert not otsu.bright(torch.full((2, 1, 4, 4), 3.0)).any()


def test_grey_is_luminance_of_colours_and_the_mean_of_other_channels() -> None:
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)

    assert otsu.grey(red).unique().tolist() == pytest.approx([0.299])
    assert otsu.grey(red[:, :2]).unique().tolist() == [0.5]
    assert otsu.grey(red, channel=1).unique().tolist() == [0.0]


@pytest.mark.parametrize("size", [(4, 5), (3, 4, 5)], ids=["2-D", "3-D"])
def test_the_border_is_the_outermost_voxels(size: tuple[int, ...]) -> None:
    inner = torch.zeros(1, 1, *size, dtype=torch.bool)
    inner[(..., *(slice(1, -1) for _ in size))] = True

    assert otsu.border_share(inner).tolist() == [0.0]
    assert otsu.border_share(~inner).tolist() == [1.0]
    assert otsu.share(inner).item() == pytest.approx(float(inner.float().mean()))

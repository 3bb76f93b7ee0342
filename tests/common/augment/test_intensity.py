import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from confrere_common.augment import intensity
from confrere_common.augment.draw import Draws, draw
from confrere_common.augment.geometry import lines
from confrere_common.augment.presets import PRESETS, Ranges


def drawn(ranges: Ranges, batch: int, channels: int, seed: int = 0) -> Draws:
    return draw(ranges, batch, channels, torch.Generator().manual_seed(seed))


def images(batch: int, channels: int, *size: int) -> Tensor:
    return torch.rand(batch, channels, *size, generator=torch.Generator().manual_seed(1))


def recoloured(ranges: Ranges, before: Tensor, seed: int = 0) -> Tensor:
    draws = drawn(ranges, len(before), before.shape[1], seed)
    after = intensity.recolour(
        before, intensity.colour(draws, ranges, 1.0), torch.empty_like(before)
    )
    return after * intensity.STD + intensity.MEAN


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_ranges_that_change_nothing_leave_intensities_as_they_are(channels: int) -> None:
    before = images(2, channels, 4, 4)

    assert torch.allclose(recoloured(Ranges(), before), before, atol=1e-6)


def test_grey_and_many_channels_are_spared_the_matrix() -> None:
    ranges = Ranges(saturation=(0.5, 2), hue_turns=0.5)

    mixes = [intensity.colour(drawn(ranges, 2, c), ranges, 1.0).mix.shape for c in (1, 3, 5)]

    assert mixes == [(2, 1), (2, 3, 3), (2, 5)]
    plain = Ranges(contrast=(0.5, 2))
    assert intensity.colour(drawn(plain, 2, 3), plain, 1.0).mix.shape == (2, 3)


@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=20)
def test_a_grey_picture_in_colour_stays_grey(seed: int) -> None:
    ranges = Ranges(saturation=(0.2, 3), hue_turns=0.5, contrast=(0.5, 2), brightness=0.3)
    grey = images(2, 1, 4, 4).expand(2, 3, 4, 4)

    after = recoloured(ranges, grey, seed)

    assert torch.allclose(after[:, :1].expand_as(after), after, atol=1e-4)


@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=20)
def test_colours_turn_without_becoming_brighter(seed: int) -> None:
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    before = images(2, 3, 4, 4)

    after = recoloured(Ranges(saturation=(0.2, 3), hue_turns=0.5), before, seed)

    assert torch.allclose((after * luma).sum(1), (before * luma).sum(1), atol=1e-4)


def test_contrast_turns_about_the_mean_and_brightness_moves_it() -> None:
    before = images(3, 1, 8, 8)

    stretched = recoloured(Ranges(contrast=(2, 2)), before)
    moved = recoloured(Ranges(brightness=0.3), before)

    assert torch.allclose(stretched.mean((1, 2, 3)), before.mean((1, 2, 3)), atol=1e-5)
    assert torch.allclose(stretched.std((1, 2, 3)), 2 * before.std((1, 2, 3)), atol=1e-5)
    assert torch.allclose((moved - before).std((1, 2, 3)), torch.zeros(3), atol=1e-5)


def test_an_inverted_picture_is_its_negative() -> None:
    before = images(2, 3, 4, 4)

    after = recoloured(Ranges(inversion_probability=1), before)

    assert torch.allclose(after, 1 - before, atol=1e-5)


@pytest.mark.parametrize("modality", ["ct", "cxr"])
def test_darker_stays_darker_in(modality: str) -> None:
    ranges, ramp = PRESETS[modality], torch.linspace(0, 1, 64).view(1, 1, 8, 8).repeat(20, 1, 1, 1)
    draws = drawn(ranges, 20, 1)

    bent = intensity.bend(ramp, draws.gamma_B, 1.0)
    after = intensity.recolour(bent, intensity.colour(draws, ranges, 1.0), torch.empty_like(bent))

    assert (after.flatten(1).diff(dim=1) > 0).all()


def test_gamma_bends_only_the_images_that_were_drawn() -> None:
    before, gamma_B = images(3, 1, 4, 4), torch.tensor([1.0, 2.0, 1.0])

    after = intensity.bend(before.clone(), gamma_B, 1.0)

    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert torch.allclose(after[1], before[1] ** 2)


def test_stains_that_keep_their_density_keep_their_colour() -> None:
    before = images(2, 3, 4, 4).clamp(min=0.02)
    draws = drawn(Ranges(), 2, 3)

    after = intensity.restain(before.clone(), *intensity.stain_mix(draws), 1.0)

    assert torch.allclose(after, before, atol=1e-5)


def test_twice_the_haematoxylin_is_haematoxylin_in_square() -> None:
    density = torch.tensor([0.65, 0.70, 0.29]).view(1, 3, 1, 1)
    draws = replace(drawn(Ranges(), 1, 3), stain_scale_B3=torch.tensor([[2.0, 1.0, 1.0]]))

    after = intensity.restain(torch.exp(-density), *intensity.stain_mix(draws), 1.0)

    assert torch.allclose(after, torch.exp(-2 * density), atol=1e-5)


def test_glass_without_tissue_stays_white_when_stains_vary() -> None:
    ranges = Ranges(stain_scale=0.3)

    after = intensity.restain(
        torch.ones(4, 3, 2, 2), *intensity.stain_mix(drawn(ranges, 4, 3)), 1.0
    )

    assert torch.allclose(after, torch.ones_like(after), atol=1e-6)


@pytest.mark.parametrize("size", [(16, 16), (8, 9, 10)], ids=str)
def test_a_blur_spreads_a_point_evenly_and_keeps_its_light(size: tuple[int, ...]) -> None:
    point = torch.zeros(1, 1, *size)
    middle = tuple(voxels // 2 for voxels in size)
    point[(0, 0, *middle)] = 1

    after = intensity.blur(point, torch.tensor([0.1]), 0.1)

    assert after.sum().item() == pytest.approx(1, abs=1e-5)
    assert after.max() == after[(0, 0, *middle)] < 1
    neighbours = [
        after[(0, 0, *(m + step * (axis == one) for one, m in enumerate(middle)))].item()
        for axis in range(len(size))
        for step in (-1, 1)
    ]
    assert neighbours == pytest.approx([neighbours[0]] * len(neighbours), abs=1e-6)


def test_a_blur_is_the_gaussian_that_was_asked_for() -> None:
    line = torch.zeros(1, 1, 33, 33)
    line[..., 16] = 1

    after = intensity.blur(line, torch.tensor([1.5 / 33]), 1.6 / 33)[0, 0, 16]

    spread = ((torch.arange(33) - 16) ** 2 * after).sum().sqrt().item()
    assert spread == pytest.approx(1.5, rel=0.03)


def test_only_the_images_that_were_drawn_are_blurred_or_noisy() -> None:
    before, values = images(3, 2, 8, 8), torch.tensor([0.0, 0.05, 0.0])

    blurred = intensity.blur(before.clone(), values, 0.05)
    noisy = intensity.add_noise(before.clone(), values, torch.Generator().manual_seed(0))

    for after in (blurred, noisy):
        assert torch.equal(after[[0, 2]], before[[0, 2]])
        assert not torch.allclose(after[1], before[1], atol=1e-3)


def test_noise_is_as_strong_as_drawn() -> None:
    blank, std_B = torch.zeros(2, 1, 64, 64), torch.tensor([0.01, 0.04])

    after = intensity.add_noise(blank, std_B, torch.Generator().manual_seed(0))

    measured = after.std((1, 2, 3)) * intensity.STD
    assert torch.allclose(measured, std_B, rtol=0.1)


def test_a_field_multiplies_one_side_up_and_the_other_down() -> None:
    flat, field_B3 = torch.ones(1, 1, 4, 4, 4), torch.tensor([[0.0, 0.0, 0.2]])

    after = intensity.shade(flat, field_B3, lines((4, 4, 4), flat.device))

    due = torch.tensor([0.85, 0.95, 1.05, 1.15]).expand(4, 4, 4)
    assert torch.allclose(after[0, 0], due)


def test_a_whole_turn_of_hue_is_no_turn() -> None:
    ranges, before = Ranges(hue_turns=0.5), images(1, 3, 4, 4)
    draws = replace(drawn(ranges, 1, 3), hue_B=torch.tensor([math.tau]))

    after = intensity.recolour(
        before, intensity.colour(draws, ranges, 1.0), torch.empty_like(before)
    )

    assert torch.allclose(after * intensity.STD + intensity.MEAN, before, atol=1e-4)


def test_noise_on_all_images_is_written_in_place() -> None:
    blank = torch.zeros(2, 1, 8, 8)

    after = intensity.add_noise(blank, torch.tensor([0.1, 0.1]), torch.Generator().manual_seed(0))

    assert torch.equal(after, blank)
    assert (blank != 0).all()

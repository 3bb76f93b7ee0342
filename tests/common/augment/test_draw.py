import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from confrere_common.augment.draw import Draws, draw
from confrere_common.augment.presets import PRESETS, Ranges


def drawn(ranges: Ranges, batch: int = 200, seed: int = 0) -> Draws:
    return draw(ranges, batch, 3, torch.Generator().manual_seed(seed))


def within(values: Tensor, low: float, high: float) -> bool:
    return bool((values >= low - 1e-6).all() and (values <= high + 1e-6).all())


def chosen_within(values: Tensor, neutral: float, span: tuple[float, float]) -> bool:
    return within(values[values != neutral], *span)


@pytest.mark.parametrize("modality", PRESETS)
@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=5)
def test_what_is_drawn_stays_in_its_range(modality: str, seed: int) -> None:
    ranges = PRESETS[modality]

    draws = drawn(ranges, seed=seed)

    turn = math.radians(ranges.rotation_degrees)
    assert within(draws.area_B, *ranges.area)
    assert within(draws.aspect_B, *ranges.aspect)
    assert within(draws.angle_B, -turn, turn)
    assert within(draws.tilt_B2, -math.radians(15), math.radians(15))
    assert within(draws.place_B3, -1, 1)
    assert within(draws.translation_B3, -ranges.translation, ranges.translation)
    assert set(draws.quarters_B.tolist()) <= ({0, 1, 2, 3} if ranges.quarter_turns else {0})
    assert within(draws.brightness_B, -ranges.brightness, ranges.brightness)
    assert within(draws.contrast_B, *ranges.contrast)
    assert within(draws.gain_BC, *ranges.channel_gain)
    assert within(draws.field_B3, -ranges.bias_field, ranges.bias_field)
    assert within(draws.saturation_B, *ranges.saturation)
    assert within(draws.hue_B, -math.tau * ranges.hue_turns, math.tau * ranges.hue_turns)
    assert within(draws.stain_scale_B3, 1 - ranges.stain_scale, 1 + ranges.stain_scale)
    assert within(draws.stain_shift_B3, -ranges.stain_shift, ranges.stain_shift)
    assert chosen_within(draws.gamma_B, 1, ranges.gamma)
    assert chosen_within(draws.sigma_B, 0, ranges.blur_sigma)
    assert chosen_within(draws.noise_B, 0, ranges.noise_std)


def test_probabilities_are_kept() -> None:
    ranges = Ranges(
        flips=(0, 1, 0.5), blur_sigma=(0.01, 0.02), blur_probability=0.25, inversion_probability=1
    )

    draws = drawn(ranges, batch=4000)

    assert draws.flips_B3.float().mean(0).tolist() == [0, 1, pytest.approx(0.5, abs=0.05)]
    assert (draws.sigma_B > 0).float().mean().item() == pytest.approx(0.25, abs=0.05)
    assert draws.inverted_B.all()


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    one, again, other = (drawn(PRESETS["mri"], seed=seed) for seed in (3, 3, 4))

    assert torch.equal(one.area_B, again.area_B)
    assert one.noise_seed == again.noise_seed != other.noise_seed
    assert not torch.equal(one.area_B, other.area_B)


def test_changing_one_range_leaves_all_other_draws_of_a_seed_as_they_were() -> None:
    plain = drawn(Ranges(area=(0.5, 1)))
    gamma = drawn(Ranges(area=(0.5, 1), gamma=(0.5, 2), gamma_probability=1))

    assert torch.equal(plain.area_B, gamma.area_B)
    assert torch.equal(plain.place_B3, gamma.place_B3)
    assert plain.noise_seed == gamma.noise_seed


def test_an_image_keeps_its_draws_when_the_batch_grows() -> None:
    few, many = drawn(PRESETS["ct"], batch=3), drawn(PRESETS["ct"], batch=9)

    assert torch.equal(few.area_B, many.area_B[:3])


def test_nothing_is_drawn_for_an_empty_batch() -> None:
    assert drawn(PRESETS["ct"], batch=0).area_B.shape == (0,)

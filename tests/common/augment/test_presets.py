from dataclasses import asdict

import pytest
from pydantic import TypeAdapter, ValidationError

from confrere_common.augment.presets import PRESETS, Augmentation, Ranges
from confrere_common.section import documentation


def test_a_preset_is_taken_as_it_stands() -> None:
    assert Augmentation(modality="ct").ranges() == PRESETS["ct"]


def test_a_change_replaces_one_range_and_leaves_the_others() -> None:
    section = Augmentation(modality="mri", changes={"flips": [0, 0, 0.5]})

    ranges = section.ranges()

    assert ranges.flips == (0, 0, 0.5)
    assert asdict(ranges) == {**asdict(PRESETS["mri"]), "flips": (0, 0, 0.5)}


def test_an_unknown_modality_is_refused_with_a_guess() -> None:
    with pytest.raises(ValidationError, match="did you mean 'histology'"):
        Augmentation(modality="histolgy")


def test_an_unknown_range_is_refused_with_a_guess() -> None:
    with pytest.raises(ValidationError, match="did you mean 'contrast'"):
        Augmentation(modality="cxr", changes={"contrst": [1, 1]})


def test_all_impossible_ranges_are_named_at_once() -> None:
    with pytest.raises(ValidationError) as fault:
        Augmentation(changes={"area": [0.9, 0.1], "rotation_degrees": 400, "noise_std": [-1, 0]})

    assert all(name in str(fault.value) for name in ("area", "rotation_degrees", "noise_std"))
    assert "0.9 is above 0.1" in str(fault.value)


def test_a_section_is_read_from_plain_values_and_refuses_other_keys() -> None:
    reader = TypeAdapter(Augmentation)

    assert reader.validate_python({"modality": "ct"}) == Augmentation(modality="ct")
    with pytest.raises(ValidationError):
        reader.validate_python({"modalty": "ct"})


def test_every_range_says_what_it_is() -> None:
    assert set(documentation(Ranges)) == set(asdict(Ranges()))


def test_no_preset_mirrors_where_sides_are_anatomy() -> None:
    assert all(PRESETS[name].flips == (0, 0, 0) for name in ("cxr", "ct", "mri"))
    assert all(PRESETS[name].rotation_degrees <= 15 for name in ("cxr", "ct", "mri"))


def test_no_preset_turns_colours_that_are_a_stain_or_a_physical_scale() -> None:
    for name in ("cxr", "ct", "mri", "histology", "microscopy"):
        assert (PRESETS[name].hue_turns, PRESETS[name].saturation) == (0, (1, 1))
    assert PRESETS["ct"].gamma_probability == PRESETS["ct"].inversion_probability == 0

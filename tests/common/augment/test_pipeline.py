import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from confrere_common.augment import pipeline
from confrere_common.augment.pipeline import BRIGHTEST, Pipeline, augmentation, normalise
from confrere_common.augment.presets import PRESETS, Augmentation, Ranges
from confrere_common.errors import DataError

MODALITIES = pytest.mark.parametrize("modality", PRESETS)
SHAPES = pytest.mark.parametrize(
    "shape", [(1, 16, 16), (3, 16, 16), (3, 12, 20), (4, 9, 9), (1, 8, 8, 8), (3, 4, 6, 8)], ids=str
)


def stored(batch: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, *shape), generator=generator, dtype=torch.uint8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def of(modality: str, shape: tuple[int, ...]) -> Pipeline:
    return augmentation(Augmentation(modality=modality), channels=shape[0], size=shape[1:])


def with_ranges(ranges: Ranges, shape: tuple[int, ...]) -> Pipeline:
    return Pipeline(ranges=ranges, channels=shape[0], size=shape[1:])


@MODALITIES
@SHAPES
def test_a_view_has_the_shape_of_its_image_and_bounded_normalised_values(
    modality: str, shape: tuple[int, ...]
) -> None:
    images = stored(5, shape)

    views = of(modality, shape)(images, seeded())

    assert views.shape == images.shape
    assert (views.dtype, views.device) == (torch.float32, images.device)
    assert views.isfinite().all()
    assert views.abs().max() <= BRIGHTEST
    assert not torch.allclose(views, normalise(images), atol=0.1)


@SHAPES
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_ranges_that_vary_nothing_give_the_normalised_image(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    images = stored(3, shape).to(dtype)

    views = with_ranges(Ranges(), shape)(images, seeded())

    assert torch.allclose(views, normalise(images), atol=1e-5)


@MODALITIES
def test_a_seed_decides_a_view_and_another_gives_another(modality: str) -> None:
    make, images = of(modality, (3, 16, 16)), stored(4, (3, 16, 16))

    one, again, other = make(images, seeded(1)), make(images, seeded(1)), make(images, seeded(2))

    assert torch.equal(one, again)
    assert not torch.allclose(one, other, atol=0.1)


def test_a_generator_that_goes_on_gives_two_different_views() -> None:
    make, images, generator = of("cxr", (1, 16, 16)), stored(4, (1, 16, 16)), seeded()

    assert not torch.allclose(make(images, generator), make(images, generator), atol=0.1)


@MODALITIES
@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 8, 8, 8)], ids=str)
def test_a_view_depends_on_no_other_image(modality: str, shape: tuple[int, ...]) -> None:
    images = stored(6, shape)
    changed = torch.cat([images[:3], stored(3, shape, seed=9)])
    make = of(modality, shape)

    views, others = make(images, seeded()), make(changed, seeded())

    assert torch.allclose(views[:3], others[:3], atol=1e-6)


@given(seed=st.integers(0, 2**32), modality=st.sampled_from(sorted(PRESETS)))
@settings(deadline=None, max_examples=20)
def test_eight_and_sixteen_bits_of_one_image_give_one_view(seed: int, modality: str) -> None:
    images, make = stored(3, (3, 12, 12), seed), of(modality, (3, 12, 12))
    deep = (images.int() * 257).to(torch.uint16)

    assert torch.allclose(make(images, seeded(seed)), make(deep, seeded(seed)), atol=1e-3)


@MODALITIES
@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_blank_image_gives_a_finite_view(modality: str, value: int) -> None:
    blank = torch.full((2, 3, 8, 8), value, dtype=torch.uint8)

    assert of(modality, (3, 8, 8))(blank, seeded()).isfinite().all()


@pytest.mark.parametrize("batch", [0, 1])
def test_a_batch_may_hold_one_image_or_none(batch: int) -> None:
    views = of("dermatology", (3, 16, 16))(stored(batch, (3, 16, 16)), seeded())

    assert views.shape == (batch, 3, 16, 16)


@MODALITIES
def test_the_parts_in_which_a_batch_is_worked_do_not_show(
    modality: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, make = stored(7, (3, 9, 9)), of(modality, (3, 9, 9))

    whole = make(images, seeded())
    monkeypatch.setattr(pipeline, "_CHUNK_BYTES", 2 * 4 * 3 * 9 * 9)
    parts = make(images, seeded())

    assert torch.allclose(whole, parts, atol=1e-5)


def test_mirrors_alone_are_exact() -> None:
    images = stored(2, (1, 6, 6))

    views = with_ranges(Ranges(flips=(0, 0, 1)), (1, 6, 6))(images, seeded())

    assert torch.allclose(views, normalise(images.flip(-1)), atol=1e-6)


def test_the_stored_images_are_left_as_they_are() -> None:
    images = stored(4, (3, 16, 16))
    before = images.clone()

    of("histology", (3, 16, 16))(images, seeded())

    assert torch.equal(images, before)


def test_a_callers_half_precision_does_not_blunt_the_view() -> None:
    make, images = of("dermatology", (3, 16, 16)), stored(4, (3, 16, 16))

    with torch.autocast("cpu", torch.bfloat16):
        blunt = make(images, seeded())

    assert torch.equal(blunt, make(images, seeded()))


def test_normalised_images_span_minus_two_to_two() -> None:
    ends = torch.tensor([0, 255], dtype=torch.uint8)
    deep = torch.tensor([0, 65535], dtype=torch.uint16)

    assert normalise(ends).tolist() == pytest.approx([-2, 2])
    assert normalise(deep).tolist() == pytest.approx([-2, 2])


def test_images_of_another_kind_are_refused_in_words() -> None:
    make = of("cxr", (1, 16, 16))

    with pytest.raises(DataError, match=r"uint8 or uint16, not as torch\.float32"):
        make(torch.rand(2, 1, 16, 16), seeded())
    with pytest.raises(DataError, match=r"\(3, 16, 16\), but views of \(1, 16, 16\)"):
        make(stored(2, (3, 16, 16)), seeded())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@MODALITIES
def test_a_graphics_card_gives_the_view_that_a_processor_gives(modality: str) -> None:
    images = stored(4, (3, 16, 16))
    section = Augmentation(modality=modality, changes={"noise_probability": 0})
    make = augmentation(section, channels=3, size=(16, 16))

    here, there = make(images, seeded()), make(images.cuda(), seeded()).cpu()

    assert torch.allclose(here, there, atol=2e-2)

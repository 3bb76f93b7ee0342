import pickle
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from confrere_client.phantom.anatomy import Canvas, smooth_field
from confrere_client.phantom.modality import MODALITIES, ModalityName
from confrere_client.phantom.roster import apportion
from confrere_client.phantom.site import photograph, site_looks, site_prevalence
from confrere_client.source import SOURCES, Record, open_source
from confrere_client.sources.phantom import Phantom, site_name
from confrere_common.errors import ConfigError
from confrere_common.family import Named

ALL = pytest.mark.parametrize("modality", MODALITIES)
SMALL = {"images": 60, "patients": 20, "image_px": 32}


def phantom(**knobs: Any) -> Phantom:
    return Phantom(Phantom.Config(**{**SMALL, **knobs}), Path())


def parts(records: list[Record], kind: str) -> dict[str, float]:
    of_site = {
        site: [r.label for r in records if r.site == site] for site in {r.site for r in records}
    }
    return {site: labels.count(kind) / len(labels) for site, labels in of_site.items()}


def test_the_config_knows_every_modality() -> None:
    assert set(get_args(ModalityName)) == set(MODALITIES)


def test_a_run_opens_it_by_name() -> None:
    source = open_source(Named(name="phantom", knobs=SMALL), Path())

    assert isinstance(source, Phantom)
    assert len(source.records()) == 60
    assert "phantom" in SOURCES.names()


@ALL
def test_an_image_has_the_promised_shape_and_uses_its_range(modality: ModalityName) -> None:
    image_CYX = phantom(modality=modality).records()[0].decode()

    assert image_CYX.shape == (MODALITIES[modality].channels, 32, 32)
    assert image_CYX.dtype == np.uint8
    assert np.ptp(image_CYX) > 40


def test_ct_has_volumes_with_a_box_of_six_numbers() -> None:
    source = phantom(modality="ct", dims=3, image_px=24)
    ill = next(i for i, record in enumerate(source.records()) if record.label != "normal")

    truth = source.truth(ill)

    assert source.records()[ill].decode().shape == (1, 24, 24, 24)
    assert truth.mask.shape == (24, 24, 24)
    assert truth.boxes.shape[1] == 6


@ALL
def test_an_image_is_the_same_alone_and_among_others(modality: ModalityName) -> None:
    one, other = phantom(modality=modality), phantom(modality=modality)
    for record in one.records()[:5]:
        record.decode()

    np.testing.assert_array_equal(one.records()[7].decode(), other.records()[7].decode())


def test_seed_and_index_change_the_image() -> None:
    records = phantom().records()

    assert not np.array_equal(records[0].decode(), records[1].decode())
    assert not np.array_equal(records[0].decode(), phantom(seed=1).records()[0].decode())


def test_a_larger_image_shows_the_same_more_finely() -> None:
    small, large = (phantom(image_px=px, shift=0).records()[3].decode() for px in (32, 64))

    coarse = large.reshape(3, 32, 2, 32, 2).mean((2, 4))

    assert np.corrcoef(coarse.ravel(), small.ravel())[0, 1] > 0.9


def test_a_record_travels_to_another_process() -> None:
    record = phantom().records()[0]

    copy = pickle.loads(pickle.dumps(record))  # noqa: S301  our own bytes

    np.testing.assert_array_equal(copy.decode(), record.decode())


def test_patients_have_one_site_and_unequal_numbers_of_images() -> None:
    records = phantom(images=200, patients=50).records()
    of = {r.patient: [other for other in records if other.patient == r.patient] for r in records}

    assert len(records) == 200
    assert len(of) == 50
    assert all(len({record.site for record in group}) == 1 for group in of.values())
    assert len({len(group) for group in of.values()}) > 3
    assert {record.site for record in records} == {"site-a", "site-b", "site-c", "site-d"}
    assert len({record.name for record in records}) == 200


@ALL
def test_every_class_is_there_and_the_first_is_commonest(modality: ModalityName) -> None:
    labels = [
        record.label for record in phantom(modality=modality, images=400, patients=120).records()
    ]
    counts = {kind: labels.count(kind) for kind in MODALITIES[modality].classes}

    assert min(counts.values()) > 20
    assert sum(counts.values()) == 400
    assert max(counts, key=counts.__getitem__) == next(iter(counts))


def test_prevalence_differs_between_sites_unless_shift_is_0() -> None:
    def range_of(shift: float) -> float:
        records = list(phantom(images=2000, patients=1000, shift=shift).records())
        return float(np.ptp(list(parts(records, "carcinoma").values())))

    assert range_of(1.0) > 2.5 * range_of(0.0)


def test_without_shift_all_sites_look_and_admit_alike() -> None:
    rng = np.random.default_rng(0)

    looks = site_looks(rng, 4, 0.0)
    prevalence_SK = site_prevalence(rng, [0.5, 0.3, 0.2], 4, 0.0)

    assert len(set(looks)) == 1
    np.testing.assert_allclose(prevalence_SK, [[0.5, 0.3, 0.2]] * 4)


def test_shift_moves_the_pictures_of_sites_apart() -> None:
    canvas = Canvas(px=32, dims=2, zoom=1.0)
    scene = smooth_field(np.random.default_rng(1), canvas, 6)
    picture_CYX = np.clip(0.5 + 0.15 * np.stack([scene] * 3), 0, 1)

    def apart(shift: float) -> float:
        looks = site_looks(np.random.default_rng(2), 4, shift)
        taken = [photograph(np.random.default_rng(3), canvas, picture_CYX, look) for look in looks]
        return float(np.std(np.stack(taken).astype(float), axis=0).mean())

    assert apart(0.0) == 0
    assert apart(0.5) > 2
    assert apart(1.0) > apart(0.5)


@ALL
@pytest.mark.parametrize("image_px", [16, 40])
def test_truth_agrees_with_the_label(modality: ModalityName, image_px: int) -> None:
    source = phantom(modality=modality, image_px=image_px, seed=3)
    for index, record in enumerate(source.records()):
        truth = source.truth(index)

        assert truth.mask.any() == (record.label != "normal")
        assert bool(len(truth.boxes)) == bool(truth.mask.any())


@ALL
def test_each_box_bounds_one_component_of_the_mask(modality: ModalityName) -> None:
    source = phantom(modality=modality, images=24, patients=12)
    for index in range(24):
        truth = source.truth(index)

        found = ndimage.find_objects(ndimage.label(truth.mask)[0])

        expected = {(y.start, x.start, y.stop, x.stop) for y, x in found}
        assert {tuple(map(int, box)) for box in truth.boxes} == expected
        assert len(truth.boxes) == len(found)


def test_the_lesion_stands_out_where_the_truth_says() -> None:
    source = phantom(modality="lesion", shift=0.0)
    darker = 0
    for index, record in enumerate(source.records()):
        mask_YX = source.truth(index).mask.astype(bool)
        image_YX = record.decode().mean(0)
        darker += image_YX[mask_YX].mean() < image_YX[~mask_YX].mean()

    assert darker == len(source.records())


def test_the_fingerprint_follows_the_config() -> None:
    same = [b"".join(phantom().fingerprint()) for _ in range(2)]
    others = [
        b"".join(phantom(**knob).fingerprint())
        for knob in ({"seed": 1}, {"shift": 0.5}, {"image_px": 16}, {"modality": "lesion"})
    ]

    assert same[0] == same[1]
    assert len({*same, *others}) == 5


def test_raw_pixels_say_little_about_the_class() -> None:
    records = phantom(images=450, patients=220, image_px=16).records()
    pixels = np.stack([record.decode().ravel() for record in records]) / 255.0
    labels = np.array([record.label for record in records])

    model = LogisticRegression(C=1e-4, max_iter=100).fit(pixels[:300], labels[:300])

    chances = model.predict_proba(pixels[300:])
    assert roc_auc_score(labels[300:], chances, multi_class="ovr", average="macro") < 0.75


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"modality": "histology", "dims": 3}, "histology image is flat"),
        ({"images": 5, "patients": 6, "sites": 2}, "more patients than images"),
        ({"patients": 3, "sites": 4}, "more sites than patients"),
        ({"modality": "mri"}, "histology"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_advice(knobs: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        open_source(Named(name="phantom", knobs=knobs), Path())


def test_apportioning_keeps_the_total_and_the_proportions() -> None:
    assert apportion([0.5, 0.3, 0.2], 10).tolist() == [5, 3, 2]
    assert apportion([0.9, 0.05, 0.05], 4, at_least_one=True).tolist() == [2, 1, 1]
    assert apportion([1 / 3] * 3, 10).sum() == 10


def test_sites_past_the_alphabet_have_numbers() -> None:
    assert [site_name(index) for index in (0, 25, 26)] == ["site-a", "site-z", "site-27"]

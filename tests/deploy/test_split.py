from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confrere_client.data.catalog import Catalog
from confrere_common.errors import ConfigError
from confrere_common.family import Named
from confrere_deploy.split import (
    SPLITS,
    Rows,
    owns,
    patient_labels,
    shared_out,
    sites_of_test,
)

SIZED = [name for name in SPLITS.names() if name != "natural"]


@st.composite
def catalogs(draw, least: int = 4) -> Catalog:
    count = draw(st.integers(least, 30))
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    keys = generator.permutation(1000)[:count]
    patients = generator.permutation(
        np.concatenate([keys, generator.choice(keys, draw(st.integers(0, 40)))])
    )
    return Catalog(
        patients=patients,
        labels=generator.integers(-1, 3, len(patients)),
        sites=np.asarray([f"hospital-{key % 3}" for key in patients], np.str_),
        splits=np.asarray([""] * len(patients), np.str_),
        classes=("a", "b", "c"),
        names=np.asarray([""] * len(patients), np.str_),
    )


def spread(name: str, catalog: Catalog, seed: int = 0, **knobs) -> dict[str, Rows]:
    config = SPLITS.configure(Named(name=name, knobs=knobs))
    return SPLITS.member(name)(catalog, config, np.random.default_rng(seed))


@pytest.mark.parametrize("name", SPLITS.names())
@given(catalog=catalogs(), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=25)
def test_every_image_is_at_one_site_and_no_patient_is_torn(name, catalog, seed):
    sites = spread(name, catalog, seed)

    assert sorted(np.concatenate(list(sites.values()))) == list(range(len(catalog)))
    owned = [set(catalog.patients[rows]) for rows in sites.values()]
    assert sum(map(len, owned)) == catalog.patient_count
    assert all(owned)


@pytest.mark.parametrize("name", SPLITS.names())
@given(catalog=catalogs(), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=10)
def test_the_same_seed_gives_the_same_sites(name, catalog, seed):
    once, again = spread(name, catalog, seed), spread(name, catalog, seed)

    assert once.keys() == again.keys()
    assert all(np.array_equal(once[site], again[site]) for site in once)


@pytest.mark.parametrize("name", SIZED)
@given(catalog=catalogs(), data=st.data())
@settings(deadline=None, max_examples=15)
def test_as_many_sites_as_patients_leaves_none_empty(name, catalog, data):
    sites = data.draw(st.integers(1, catalog.patient_count))

    found = spread(name, catalog, sites=sites)

    assert len(found) == sites
    assert all(len(rows) for rows in found.values())


@pytest.mark.parametrize("name", SIZED)
@given(catalog=catalogs())
@settings(deadline=None, max_examples=5)
def test_more_sites_than_patients_are_refused_with_both_numbers(name, catalog):
    sites = catalog.patient_count + 1

    with pytest.raises(
        ConfigError, match=f"{sites} sites .* only {catalog.patient_count} patients"
    ):
        spread(name, catalog, sites=sites)


@pytest.mark.parametrize("name", ["dirichlet", "quantity"])
@given(catalog=catalogs(least=9), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=15)
def test_every_site_has_the_patients_that_it_was_promised(name, catalog, seed):
    sites = spread(name, catalog, seed, sites=3, alpha=0.001, min_patients=3)

    assert all(len(set(catalog.patients[rows])) >= 3 for rows in sites.values())


def many(patients: int = 600) -> Catalog:
    keys = np.arange(patients)
    blank = np.asarray([""] * patients, np.str_)
    return Catalog(
        patients=keys,
        labels=keys % 3,
        sites=blank,
        splits=blank,
        classes=("a", "b", "c"),
        names=blank,
    )


def prevalence(catalog: Catalog, sites: dict[str, Rows]) -> np.ndarray:
    counts = [np.bincount(catalog.labels[rows], minlength=3) / len(rows) for rows in sites.values()]
    return np.asarray(counts)


def test_a_small_alpha_makes_sites_unlike_in_prevalence_and_a_large_one_alike():
    catalog = many()

    unlike = prevalence(catalog, spread("dirichlet", catalog, alpha=0.1))
    alike = prevalence(catalog, spread("dirichlet", catalog, alpha=1000))

    assert unlike.std(axis=0).max() > 0.2
    assert alike.std(axis=0).max() < 0.05


def test_quantity_skews_sizes_and_iid_evens_them():
    catalog = many()

    skewed = sorted(map(len, spread("quantity", catalog, alpha=0.3).values()))
    even = sorted(map(len, spread("iid", catalog, sites=7).values()))

    assert skewed[-1] > 3 * skewed[0]
    assert even[-1] - even[0] <= 1


def test_natural_sites_carry_the_names_of_the_column():
    catalog = replace(many(4), sites=np.asarray(["b", "a", "b", "a"], np.str_))

    sites = spread("natural", catalog)

    assert {name: rows.tolist() for name, rows in sites.items()} == {"a": [1, 3], "b": [0, 2]}


def test_natural_without_a_site_column_is_refused_with_the_way_out():
    catalog = replace(many(4), sites=np.asarray(["a", "", "", "a"], np.str_))

    with pytest.raises(
        ConfigError, match=r"2 of 4 images have no site.*iid, dirichlet or quantity"
    ):
        spread("natural", catalog)


def test_natural_refuses_a_patient_on_two_sites():
    catalog = replace(
        many(4), patients=np.asarray([0, 0, 1, 2]), sites=np.asarray(["a", "b", "a", "b"], np.str_)
    )

    with pytest.raises(ConfigError, match=r"1 of 3 patients have images at more than one site"):
        spread("natural", catalog)


def test_a_patient_s_label_is_the_most_frequent_and_unlabelled_images_do_not_vote():
    catalog = replace(
        many(6), patients=np.asarray([5, 5, 5, 8, 8, 9]), labels=np.asarray([2, 2, 0, -1, 1, -1])
    )

    patients, labels = patient_labels(catalog)

    assert patients.tolist() == [5, 8, 9]
    assert labels.tolist() == [2, 1, -1]


@given(count=st.integers(4, 50), shares=st.lists(st.floats(0.001, 1), min_size=1, max_size=4))
@settings(deadline=None, max_examples=30)
def test_pieces_are_complete_and_none_is_too_small(count, shares):
    pieces = shared_out(np.arange(count), np.asarray(shares), least=1)

    assert np.concatenate(pieces).tolist() == list(range(count))
    assert all(len(piece) >= 1 for piece in pieces)


def trained_and_tested(catalog: Catalog) -> tuple[Rows, Rows]:
    """Return the rows of three patients in four, and of the others."""
    tested = np.unique(catalog.patients)[::4]
    mask = np.isin(catalog.patients, tested)
    return np.flatnonzero(~mask), np.flatnonzero(mask)


@pytest.mark.parametrize("name", SIZED)
@given(catalog=catalogs(least=8), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=15)
def test_a_test_patient_counts_for_one_site_of_the_split(name, catalog, seed):
    train, test = trained_and_tested(catalog)
    sites = {site: train[rows] for site, rows in spread(name, catalog.select(train)).items()}

    found = sites_of_test(catalog, sites, test, seed)

    assert set(found) <= set(sites)
    owners = set(zip(catalog.patients[test].tolist(), found.tolist(), strict=True))
    assert len(owners) == len(np.unique(catalog.patients[test]))
    assert np.array_equal(found, sites_of_test(catalog, sites, test, seed))


def test_a_test_patient_of_a_natural_site_is_that_site_s():
    patients = np.arange(12)
    named = np.asarray(["a", "b", ""] * 4, np.str_)
    catalog = Catalog(
        patients=patients,
        labels=patients % 2,
        sites=named,
        splits=np.asarray([""] * 12, np.str_),
        classes=("x", "y"),
        names=np.asarray([""] * 12, np.str_),
    )
    sites = {"a": np.array([0, 3]), "b": np.array([1, 4])}

    found = sites_of_test(catalog, sites, np.arange(6, 12), seed=0)

    assert owns(catalog, sites)
    assert found.tolist() == ["a", "b", "", "a", "b", ""]


def test_the_test_set_of_a_site_has_the_prevalence_of_its_training():
    patients = np.arange(400)
    labels = patients % 2
    catalog = Catalog(
        patients=patients,
        labels=labels,
        sites=np.asarray([""] * 400, np.str_),
        splits=np.asarray([""] * 400, np.str_),
        classes=("x", "y"),
        names=np.asarray([""] * 400, np.str_),
    )
    ill, well = np.flatnonzero(labels[:200] == 1), np.flatnonzero(labels[:200] == 0)
    sites = {"clinic": np.r_[ill[:90], well[:10]], "practice": np.r_[ill[90:], well[10:]]}

    found = sites_of_test(catalog, sites, np.arange(200, 400), seed=0)

    tested = labels[200:]
    assert ((found == "clinic") & (tested == 1)).sum() == 90
    assert ((found == "clinic") & (tested == 0)).sum() == 10

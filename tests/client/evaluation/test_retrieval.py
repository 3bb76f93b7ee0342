"""Rankings, with precisions worked out by hand and against torchmetrics."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.retrieval import retrieval_average_precision, retrieval_precision

from confrere_client.evaluation.paired import weighed_figure, weighed_mean
from confrere_client.evaluation.retrieval import retrieved
from confrere_client.measure.probe import Labelled
from confrere_common.errors import DataError


def items(angles: list[float], labels: list[int], patients: list[int]) -> Labelled:
    """Return features on the unit circle: an angle of 0 is nearest to the query of these tests."""
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return Labelled(features=features, labels=np.array(labels), patients=np.array(patients))


def noise(count: int, seed: int, patients: int = 0) -> Labelled:
    generator = np.random.default_rng(seed)
    return Labelled(
        features=generator.normal(size=(count, 5)),
        labels=generator.integers(3, size=count),
        patients=np.arange(count) + patients,
    )


QUERY = items([0.0], [1], [0])


def test_a_ranking_worked_out_by_hand() -> None:
    gallery = items([0.1, 0.2, 0.3, 0.4, 0.5], [1, 0, 1, 0, 1], [1, 2, 3, 4, 5])

    found = retrieved(QUERY, gallery, first=(1, 2, 5))

    assert found.precision[1] == 1
    assert found.precision[2] == 0.5
    assert found.precision[5] == 0.6
    assert found.average_precision_Q == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert found.average_precision_at_r_Q == pytest.approx((1 + 2 / 3) / 3)


def test_the_query_s_own_patient_is_not_searched() -> None:
    gallery = items([0.0, 0.1, 0.2, 0.3], [1, 1, 0, 1], [0, 0, 2, 3])

    found = retrieved(QUERY, gallery, first=(1, 2, 10))

    assert found.precision[1] == 0
    assert found.precision[2] == 0.5
    assert found.precision[10] == 0.5  # of the two that are left
    assert found.average_precision_Q == pytest.approx(1 / 2)


def test_where_the_gallery_is_the_queries_nothing_finds_itself() -> None:
    both = items([0.0, 0.1, 1.0, 1.1], [0, 0, 1, 1], [0, 1, 2, 3])

    found = retrieved(both, both, first=(1,))

    assert found.precision[1].tolist() == [1, 1, 1, 1]
    alone = Labelled(features=both.features, labels=both.labels, patients=np.array([0, 0, 1, 1]))
    assert np.isnan(retrieved(alone, alone).average_precision_Q).all()


def test_a_query_without_anything_to_find_has_no_part_in_the_mean() -> None:
    queries = items([0.0, 0.0], [1, 7], [0, 1])
    gallery = items([0.1, 0.2], [1, 1], [2, 3])

    found = retrieved(queries, gallery)
    mean = weighed_figure([weighed_mean(found.precision[5])], queries.patients)

    assert np.isnan(found.average_precision_Q).tolist() == [False, True]
    assert mean is not None
    assert mean.mean == 1
    assert set(found.precision) == {1, 5, 10}


def test_each_query_agrees_with_torchmetrics() -> None:
    queries, gallery = noise(280, 0), noise(60, 1, patients=300)

    found = retrieved(queries, gallery)

    unit = [torch.nn.functional.normalize(torch.tensor(i.features)) for i in (queries, gallery)]
    # torchmetrics takes what is not above 0 for irrelevant, so cosines are shifted.
    for number, close in enumerate(2 + unit[0] @ unit[1].T):
        relevant = torch.tensor(gallery.labels == queries.labels[number])
        assert found.average_precision_Q[number] == pytest.approx(
            float(retrieval_average_precision(close, relevant)), abs=1e-5
        )
        assert found.precision[5][number] == pytest.approx(
            float(retrieval_precision(close, relevant, top_k=5))
        )


def test_unlike_or_empty_features_are_refused() -> None:
    wide = Labelled(features=np.zeros((1, 3)), labels=np.zeros(1, int), patients=np.zeros(1, int))

    with pytest.raises(DataError, match="queries have 2 features and the gallery 3"):
        retrieved(QUERY, wide)
    with pytest.raises(DataError, match="1 queries and 0 images"):
        retrieved(QUERY, items([], [], []))

"""The mean is FedAvg's, at float32's accuracy however many images there are."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from confrere_common.exchange import Update
from confrere_common.family import NoKnobs
from confrere_server.rules.mean import mean


def update(values: Tensor, images: int) -> Update:
    return Update(site="north", round=1, delta={"w": values}, images=images)


def drawn(sites: int, entries: int) -> tuple[Tensor, list[int]]:
    generator = torch.Generator().manual_seed(sites)
    images = torch.randint(1, 100_000, (sites,), generator=generator).tolist()
    return torch.randn(sites, entries, generator=generator) + 0.1, images


def test_a_site_weighs_as_much_as_its_images() -> None:
    updates = [update(torch.tensor([1.0, 0.0]), 300), update(torch.tensor([0.0, 1.0]), 100)]

    joined = mean(updates, NoKnobs())

    assert joined["w"].tolist() == [0.75, 0.25]


def test_a_thousand_sites_of_many_images_are_joined_to_float32_accuracy() -> None:
    values, images = drawn(sites=1000, entries=2000)
    exact = np.average(values.double().numpy(), axis=0, weights=images)

    joined = mean(map(update, values, images), NoKnobs())["w"].double().numpy()

    assert np.linalg.norm(joined - exact) / np.linalg.norm(exact) < 1e-6


@given(factor=st.integers(1, 10_000), sites=st.integers(1, 8))
@settings(deadline=None, max_examples=20)
def test_only_the_proportions_of_the_counts_matter(factor: int, sites: int) -> None:
    values, images = drawn(sites, entries=5)

    once = mean(map(update, values, images), NoKnobs())
    many = mean([update(v, n * factor) for v, n in zip(values, images, strict=True)], NoKnobs())

    torch.testing.assert_close(once["w"], many["w"], rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*Click 9.0:DeprecationWarning")
def test_it_is_what_flower_computes() -> None:
    # Imported here, under the filter: flwr's own dependencies warn as they are loaded.
    from flwr.app import ArrayRecord, MetricRecord, RecordDict
    from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

    values, images = drawn(sites=7, entries=50)
    replies = [
        RecordDict({"a": ArrayRecord({"w": v}), "m": MetricRecord({"num-examples": n})})
        for v, n in zip(values, images, strict=True)
    ]

    ours = mean(map(update, values, images), NoKnobs())["w"].numpy()
    flower = aggregate_arrayrecords(replies, "num-examples")["w"].numpy()

    np.testing.assert_allclose(ours, flower, rtol=1e-5, atol=1e-6)

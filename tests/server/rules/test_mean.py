"""The mean is FedAvg's, at float32's accuracy however many images there are."""

from collections.abc import Callable

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

    once = mean(map(update, values.clone(), images), NoKnobs())
    many = mean([update(v, n * factor) for v, n in zip(values, images, strict=True)], NoKnobs())

    torch.testing.assert_close(once["w"], many["w"], rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*Click 9.0:DeprecationWarning")
def test_it_is_what_flower_computes() -> None:
    # Imported here, under the filter: flwr's own dependencies warn as they are loaded.
    from flwr.app import ArrayRecord, MetricRecord, RecordDict
    from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

    values, images = drawn(sites=7, entries=50)
    given = map(update, values.clone(), images)
    replies = [
        RecordDict({"a": ArrayRecord({"w": v}), "m": MetricRecord({"num-examples": n})})
        for v, n in zip(values, images, strict=True)
    ]

    ours = mean(given, NoKnobs())["w"].numpy()
    flower = aggregate_arrayrecords(replies, "num-examples")["w"].numpy()

    np.testing.assert_allclose(ours, flower, rtol=1e-5, atol=1e-6)


def test_the_memory_of_the_first_update_becomes_the_means() -> None:
    first = torch.ones(4)

    joined = mean([update(first, 1), update(torch.full((4,), 3.0), 1)], NoKnobs())["w"]

    assert joined.data_ptr() == first.data_ptr()
    assert joined.tolist() == [2.0] * 4


@pytest.mark.parametrize("images", [0, 1])
def test_an_update_that_is_not_the_first_to_count_is_left_as_it_was(images: int) -> None:
    other = torch.full((4,), 3.0)
    counted = update(torch.ones(4), 1)

    mean([counted, update(other, images)] if images else [update(other, 0), counted], NoKnobs())

    assert other.tolist() == [3.0] * 4


def grown(values: Tensor) -> Tensor:
    return values.clone().requires_grad_()


def inferred(values: Tensor) -> Tensor:
    with torch.inference_mode():
        return values.clone()


@pytest.mark.parametrize(
    "made",
    [
        Tensor.half,
        Tensor.double,
        lambda values: torch.stack([values, values], -1)[..., 0],
        lambda values: values[:1].expand(4),
        grown,
        inferred,
    ],
    ids=["half", "double", "strided", "expanded", "with gradient", "inference"],
)
def test_a_first_update_that_cannot_be_changed_in_place_is_copied(
    made: Callable[[Tensor], Tensor],
) -> None:
    first = made(torch.ones(4))

    joined = mean([update(first, 1), update(torch.full((4,), 3.0), 1)], NoKnobs())["w"]

    assert joined.tolist() == [2.0] * 4
    assert (joined.dtype, joined.requires_grad) == (torch.float32, False)
    assert first.tolist() == [1.0] * 4


@pytest.mark.filterwarnings("ignore:.*Click 9.0:DeprecationWarning")
def test_what_comes_over_the_wire_is_writable_memory_of_its_own() -> None:
    """``Rule``: the updates are handed over; torch itself cannot tell memory that is read-only."""
    from confrere_common.wire import answer_records, read_answer

    records = answer_records(update(torch.ones(4), 1))
    sent = records.array_records["delta"]["pack"].data
    as_it_came = bytes(bytearray(sent))
    given = read_answer(records)
    assert isinstance(given, Update)

    given.delta["w"].fill_(7)

    assert sent == as_it_came

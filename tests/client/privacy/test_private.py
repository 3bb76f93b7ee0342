"""One object draws patients, clips, adds noise and pays; no part can be had without the rest."""

import pickle
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from private_steps import alike, flat, private, private_run, step, still
from tiny_runs import Noise, noise
from told_methods import marked, told_of
from torch import Tensor

import confrere_client.privacy.private as module
from confrere_client.privacy.ghost import ghost
from confrere_client.privacy.gradients import vmapped
from confrere_client.privacy.private import Private, choose_engine, images_of
from confrere_common.errors import PrivacyError
from confrere_common.method import KNOWN, Method
from confrere_common.model import build_model
from confrere_common.privacy.accounting import Event
from confrere_common.privacy.mechanism import Draw, secure_bytes
from confrere_common.weights import Weights


class Broke(Exception):  # noqa: N818
    """There is no budget left."""


def test_a_round_is_charged_whole_before_an_image_is_fetched() -> None:
    """``Private.gradients``: "Guarantee: the whole round is charged before any image is fetched,
    and no more than the charged steps are taken; a second call charges anew and draws new
    patients and new noise."
    """
    told: list[str] = []

    def charge(event: Event) -> None:
        told.append(f"charged {event.steps}")

    def see(positions: NDArray[np.int64], _: torch.Generator) -> tuple[Tensor, list[Tensor]]:
        told.append("fetched")
        return noise(6).batch(positions), []

    made = private(private_run(patients_per_step=6), range(6), charge=charge)
    one = [flat(found) for found in made.gradients(see)]
    again = [flat(found) for found in made.gradients(see)]

    assert told[0] == "charged 2"
    assert told.count("charged 2") == 2
    assert len(one) == made.terms.steps == 2
    assert all(not torch.equal(a, b) for a, b in zip(one, again, strict=True))


def test_a_charge_that_is_refused_leaves_the_images_alone() -> None:
    def refuse(_: Event) -> None:
        raise Broke

    def see(*_: object) -> tuple[Tensor, list[Tensor]]:
        raise AssertionError("no image may be fetched")

    made = private(private_run(), range(6), charge=refuse)

    with pytest.raises(Broke):
        list(made.gradients(see))


def silent(sums: Weights, deviation: float, draw: Draw) -> Weights:  # noqa: ARG001
    return sums


@pytest.fixture
def _no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "noised", silent)


def known_bytes(count: int) -> bytes:
    return bytes(count)


@pytest.mark.usefixtures("_no_noise")
def test_micro_batches_change_nothing_but_the_memory() -> None:
    owners = [0, 1, 1, 2, 2, 2, 3, 4, 4]
    sums = [
        flat(step(private(private_run(micro_batch=size), owners), noise(9), known_bytes))
        for size in (1, 2, 64)
    ]

    assert torch.allclose(sums[0], sums[2], rtol=1e-4, atol=1e-7)
    assert torch.allclose(sums[1], sums[2], rtol=1e-4, atol=1e-7)


@pytest.mark.usefixtures("_no_noise")
def test_the_sum_is_divided_by_the_expected_patients_whoever_is_drawn() -> None:
    made = private(private_run(clip_norm=1e-3), range(4))
    images = alike(4, 1)
    half = replace(made, terms=replace(made.terms, rate=0.5))

    every = flat(step(made, images, known_bytes))
    same = flat(step(half, images, known_bytes))  # the same four are drawn

    assert torch.allclose(same, 2 * every)


def test_patients_are_drawn_by_themselves_at_the_rate_that_is_accounted() -> None:
    seen: list[int] = []

    def count(model: Method, drawn: object, clip_norm: float) -> dict[str, Tensor]:  # noqa: ARG001
        seen.append(len(drawn.weights_PK))  # type: ignore[attr-defined]
        return {}

    run = private_run(patients_per_step=4, micro_batch=64)
    made = private(run, range(16), engine=count)
    for _ in range(60):
        step(made, noise(16))

    assert len(set(seen)) > 3  # never a fixed batch
    assert 3.0 < sum(seen) / 60 < 5.0


def fetched_by(made: Private, images: Noise) -> list[int]:
    sizes: list[int] = []

    def see(positions: NDArray[np.int64], _: torch.Generator) -> tuple[Tensor, list[Tensor]]:
        sizes.append(len(positions))
        return images.batch(positions), []

    made.step(images_of(made.owners_N), see, secure_bytes())
    return sizes


def test_no_more_images_of_a_patient_are_seen_than_the_run_allows() -> None:
    owners = [0] * 7 + [1] * 2
    made = private(private_run(max_images_per_patient=3), owners)

    assert sorted(fetched_by(made, noise(9))) == [2, 3]


@pytest.mark.parametrize(
    ("owners", "due"), [([5, 5, 2], [[2], [0, 1]]), ([1], [[0]]), ([3, 1, 3, 1], [[1, 3], [0, 2]])]
)
def test_images_are_grouped_by_their_patient(owners: Sequence[int], due: list[list[int]]) -> None:
    assert [part.tolist() for part in images_of(np.array(owners))] == due


def test_auto_takes_the_faster_engine_where_it_equals_the_reference() -> None:
    run = private_run("mae", "vit")
    assert run.privacy is not None
    model = build_model(run, seed=0)

    assert choose_engine(model, run.privacy, still) is ghost
    assert choose_engine(model, replace(run.privacy, engine="vmap"), still) is vmapped

    model.decoder.paint.forward = lambda rows: rows @ model.decoder.paint.weight.T  # type: ignore
    torch.nn.Module.register_forward_hook(model.decoder.paint, lambda *_: None)
    model.unseen = torch.nn.Parameter(torch.zeros(3))  # belongs to no layer
    assert choose_engine(model, run.privacy, still) is vmapped
    with pytest.raises(PrivacyError, match="Choose auto or vmap"):
        choose_engine(model, replace(run.privacy, engine="ghost"), still)


@pytest.mark.parametrize("kind", KNOWN)
def test_a_loss_that_ties_patients_by_what_is_known_of_them_has_no_faster_engine(
    kind: str,
) -> None:
    settings = private_run().privacy
    assert settings is not None

    apart, tied = told_of(kind, lambda _: torch.ones(())), told_of(kind, marked)

    assert choose_engine(apart, settings, still) is ghost
    assert choose_engine(tied, settings, still) is vmapped


def test_noise_cannot_be_saved_and_started_again() -> None:
    """``secure_bytes``: "Return a generator of secret bytes; it cannot be copied, saved or started
    again."
    """
    draw = secure_bytes()

    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        pickle.dumps(draw)
    assert draw(16) != draw(16) != secure_bytes()(16)

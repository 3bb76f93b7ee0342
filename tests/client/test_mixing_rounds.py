"""Rounds at a site whose run mixes: apart from other sites, the same after a restart."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import noise, tiny_run

from confrere_client.state import Keepsake
from confrere_client.train import LocalState, Place, Trained, Trainer
from confrere_common.among import active_in
from confrere_common.config import Run
from confrere_common.errors import ConfigError
from confrere_common.loading import digest, dump
from confrere_common.mixing import MIXINGS
from confrere_common.model import build_model, shared_weights
from confrere_common.weights import Weights

IMAGES, OTHERS = noise(6), noise(5, seed=3)
PRIVACY = {"epsilon": 8.0, "patients_per_step": 4, "noise_multiplier": 1.2}
STATEFUL = ("fedema", "fedema_easyfl", "fedsigreg", "fedu", "orchestra", "scaffold")


def method_for(name: str | None) -> str:
    return ((MIXINGS.member(name).methods if name else None) or ("byol",))[0]


def mixed_run(*names: Any, method: str | None = None, **sections: Any) -> Run:
    changed = sections.pop("federation", {})
    method = method or method_for(names[0] if names else None)
    return tiny_run(method, federation={"rounds": 3, "mixing": list(names), **changed}, **sections)


def start(run: Run) -> Weights:
    return shared_weights(build_model(run, seed=0))


def place(round: int, site: str = "north") -> Place:
    return Place(site=site, round=round, seed=0)


def same(one: Mapping[str, Any], two: Mapping[str, Any]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def rounds(run: Run, makes: Callable[[int], Trainer], folder: Path | None = None) -> list[Trained]:
    """Train three rounds, the state put away in *folder* between them."""
    weights, found = start(run), list[Trained]()
    state: LocalState = {}
    for number in (1, 2, 3):
        if folder is not None:
            keepsake = Keepsake(folder=folder, digest=digest(dump(run)), keep=2)
            state = keepsake.load(before=number)
        trained = makes(number).round(weights, state, IMAGES, place=place(number))
        if folder is not None:
            keepsake.save(number, trained.state)
        # As if other sites had moved the global weights as well.
        weights = {name: tensor + 0.001 for name, tensor in trained.weights.items()}
        state = trained.state
        found.append(trained)
    return found


@cache
def whole(name: str | None, method: str) -> list[Trained]:
    """Train three rounds with one trainer, which is lent to another site before each."""
    run = mixed_run(*([name] if name else []), method=method)
    trainer = Trainer(run)

    def lent(number: int) -> Trainer:
        trainer.round(start(run), {}, OTHERS, place=place(number, site="south"))
        return trainer

    return rounds(run, lent)


@pytest.mark.parametrize("name", MIXINGS.names())
def test_a_client_that_is_started_again_goes_on_as_if_it_never_stopped(
    name: str, tmp_path: Path
) -> None:
    """Nor does it matter to whom a trainer was lent in between."""
    run = mixed_run(name)

    restarted = rounds(run, lambda _: Trainer(run), tmp_path / "kept")

    expected = whole(name, run.method.name)
    assert all(same(a.weights, b.weights) for a, b in zip(expected, restarted, strict=True))
    kept = {key for key in restarted[-1].state if key.startswith(f"mixing/{name}/")}
    assert bool(kept) == (name in STATEFUL)


@pytest.mark.parametrize("name", [n for n in MIXINGS.names() if n not in ("fedbn", "fedu")])
def test_it_makes_a_difference(name: str) -> None:
    method = method_for(name)
    one, two = whole(None, method)[-1].weights, whole(name, method)[-1].weights

    assert any(not torch.equal(one[key], two[key]) for key in one)


def test_personal_weights_stay_and_go_on_from_where_the_site_left_them() -> None:
    run = mixed_run(federation={"personal": ["projector.*"]})
    trainer = Trainer(run)

    one = trainer.round(start(run), {}, IMAGES, place=place(1))
    south = trainer.round(start(run), {}, OTHERS, place=place(1, site="south"))
    two = trainer.round(one.weights, one.state, IMAGES, place=place(2))

    assert not any(key.startswith("projector.") for key in one.weights)
    own = [{k: t for k, t in x.state.items() if "local/projector." in k} for x in (one, south, two)]
    assert own[0]
    assert not same(own[0], own[1])
    assert not same(own[0], own[2])


def test_personal_weights_of_all_sites_begin_alike_whoever_trained_before() -> None:
    run = mixed_run(federation={"personal": ["projector.*"]})
    fresh, used = Trainer(run), Trainer(run)
    used.round(start(run), {}, OTHERS, place=place(1, site="south"))

    one = fresh.round(start(run), {}, IMAGES, place=place(1))
    two = used.round(start(run), {}, IMAGES, place=place(1))

    assert same(one.state, two.state)


LAYERWISE = {"stages": [["encoder.stem*"], ["encoder.stages*"]]}


def moved(run: Run, round: int) -> set[str]:
    before = start(run)
    after = Trainer(run).round(before, {}, IMAGES, place=place(round)).weights
    return {key for key in before if not torch.equal(before[key], after[key])}


def test_a_stage_trains_its_part_and_what_no_stage_names() -> None:
    run = mixed_run(federation={"rounds": 4}, train={"layerwise": LAYERWISE})

    first, last = moved(run, 1), moved(run, 4)

    assert any(key.startswith("encoder.stem") for key in first)
    assert not any(key.startswith("encoder.stages") for key in first)
    assert not any(key.startswith("encoder.stem") for key in last)
    assert any(key.startswith("encoder.stages") for key in last)
    assert any(key.startswith("predictor") for key in first & last)


def test_progressive_stages_keep_training_and_optimizer_state_outlives_a_rest() -> None:
    run = mixed_run(
        federation={"rounds": 4}, train={"layerwise": {**LAYERWISE, "progressive": True}}
    )

    trainer = Trainer(run)

    states = rounds(run, lambda _: trainer)

    assert any(key.startswith("encoder.stem") for key in moved(run, 4))
    assert all(torch.isfinite(t).all() for t in states[-1].weights.values())


@pytest.mark.parametrize(("round", "trains"), [(1, True), (2, True), (3, False), (5, False)])
def test_rounds_are_divided_evenly_among_stages(round: int, trains: bool) -> None:
    stages = [["encoder.stem*"], ["encoder.stages.0*"], ["encoder.stages.1*"]]
    run = mixed_run(federation={"rounds": 6}, train={"layerwise": {"stages": stages}})

    assert active_in(run, round, "encoder.stem.0.weight") == trains
    assert active_in(run, round, "projector.0.weight")


@pytest.mark.parametrize("name", [n for n in MIXINGS.names() if MIXINGS.member(n).private])
def test_under_privacy_it_follows_given_gradients_and_no_image(name: str) -> None:
    run = mixed_run(name, privacy=PRIVACY)
    trainer = Trainer(run)
    weights, state = start(run), {}

    for number in (1, 2):
        given = [{key: torch.ones_like(p) for key, p in trainer.trainable.items()}] * 2
        trained = trainer.follow(weights, state, given, count=2, place=place(number))
        weights, state = trained.weights, trained.state

    assert trained.metrics == {}
    assert any(key.startswith(f"mixing/{name}/") for key in state) == (name in STATEFUL)


@pytest.mark.parametrize("name", [n for n in MIXINGS.names() if not MIXINGS.member(n).private])
def test_under_privacy_no_trainer_is_made_for_what_looks_at_images(name: str) -> None:
    with pytest.raises(ConfigError, match=r"noised gradients.*leave it out, or leave out privacy"):
        Trainer(mixed_run(name, privacy=PRIVACY))


def test_under_privacy_a_schedule_of_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.layerwise changes what trains"):
        Trainer(mixed_run(train={"layerwise": LAYERWISE}, privacy=PRIVACY))

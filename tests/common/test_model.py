"""A run gives one model: the same for the same seed, and clear about what travels."""

import pytest
import torch
from tiny_runs import KNOBS, SIDE, noise, tiny_run

from confrere_common.encoder import build_encoder
from confrere_common.errors import CheckpointError, ConfigError
from confrere_common.method import METHODS, Method
from confrere_common.model import (
    build_model,
    encoder_weights,
    first_weights,
    input_of,
    load_weights,
    local_weights,
    must_suit,
    shared_weights,
)
from confrere_common.weights import Weights


def same(left: Weights, right: Weights) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


@pytest.fixture(params=METHODS.names())
def model(request: pytest.FixtureRequest) -> Method:
    return build_model(tiny_run(request.param), seed=3)


def test_equal_seeds_give_equal_weights_and_others_do_not() -> None:
    run = tiny_run()

    one, two, other = (shared_weights(build_model(run, seed)) for seed in (5, 5, 6))

    assert same(one, two)
    assert not same(one, other)


def test_building_leaves_the_global_generator_as_it_was() -> None:
    torch.manual_seed(1)
    due = torch.rand(3)

    torch.manual_seed(1)
    build_model(tiny_run(), seed=5)

    assert torch.equal(torch.rand(3), due)


def test_what_travels_and_what_stays_are_the_whole_model(model: Method) -> None:
    shared, local = shared_weights(model), local_weights(model)

    assert shared.keys() | local.keys() == model.state_dict().keys()
    assert not shared.keys() & local.keys()
    assert all(tensor.dtype == torch.float32 for tensor in shared.values())
    assert all(name.split(".")[0] in model.local for name in local)


def test_a_copy_is_not_the_model_itself(model: Method) -> None:
    before = shared_weights(model)

    for tensor in shared_weights(model).values():
        tensor.fill_(9)

    assert same(shared_weights(model), before)


def test_loaded_weights_are_taken_and_the_rest_keeps_its_values(model: Method) -> None:
    kept = local_weights(model)
    moved = {name: tensor + 1 for name, tensor in shared_weights(model).items()}

    load_weights(model, moved)

    assert same(shared_weights(model), moved)
    assert same(local_weights(model), kept)


def test_the_encoder_s_part_loads_into_a_bare_encoder(model: Method) -> None:
    run = tiny_run(next(n for n in KNOBS if type(model) is METHODS.member(n)))
    images = noise(2).images_BCYX.float() / 255
    bare = build_encoder(run.encoder, channels=1, size=(SIDE, SIDE)).eval()

    bare.load_state_dict(encoder_weights(shared_weights(model)))

    model.eval()
    assert torch.equal(bare(images), model.encoder(images))


def test_a_run_whose_input_is_open_says_so() -> None:
    run = tiny_run(data={"source": "phantom", "channels": None})

    with pytest.raises(ConfigError, match=r"data\.channels and data\.dims are open"):
        build_model(run, seed=0)


def test_the_input_of_a_volume_has_three_sides() -> None:
    run = tiny_run(data={"source": "phantom", "channels": 3, "dims": 3})

    assert input_of(run) == (3, (SIDE, SIDE, SIDE))


def test_a_method_that_cannot_train_the_encoder_names_those_it_can() -> None:
    run = tiny_run("mae", encoder={"name": "resnet"})

    with pytest.raises(
        ConfigError, match="'mae' cannot train encoder 'resnet': choose encoder vit"
    ):
        must_suit(run.method, run.encoder)


@pytest.mark.parametrize("personal", [[], ["encoder.stem.*"]])
def test_a_run_begins_with_what_it_starts_from_but_for_what_stays(personal: list[str]) -> None:
    run = tiny_run(federation={"personal": personal})
    whole = build_model(run, seed=9).state_dict()
    warm = {name: tensor for name, tensor in whole.items() if name.startswith("encoder.")}

    first = first_weights(run, 3, warm)

    fresh = shared_weights(build_model(run, seed=3))
    assert first.keys() == fresh.keys()
    assert bool(personal) == any(name not in first for name in warm)
    assert same(first, {name: warm.get(name, tensor) for name, tensor in fresh.items()})


def test_a_start_that_names_what_the_model_has_not_is_refused() -> None:
    run = tiny_run()
    bare = encoder_weights(shared_weights(build_model(run, seed=9)))  # not under the run's names

    with pytest.raises(CheckpointError, match=r"of another model: \d+ of their \d+ names"):
        first_weights(run, 3, bare)

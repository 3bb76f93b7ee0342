"""Every mixing keeps the contract, unasked; what it cannot stand beside is told before a round."""

from typing import Any

import pytest
import torch
from tiny_runs import tiny_run

from confrere_common.config import Run
from confrere_common.errors import ConfigError
from confrere_common.method import METHODS, imagined_views
from confrere_common.mixing import MIXINGS, Mixing, Visit, mixings_of
from confrere_common.model import build_model, outline, shared_weights, whole_encoder

PRIVACY = {"epsilon": 8.0, "delta": 1e-5, "noise_multiplier": 1.0, "clip_norm": 1.0}


def method_for(*names: Any) -> str:
    """Return a method with which all these mixings work."""
    alone = [MIXINGS.member(name).methods for name in names if name in MIXINGS.names()]
    return next((methods[0] for methods in alone if methods), "byol")


def mixed_run(*names: Any, method: str | None = None, **sections: Any) -> Run:
    changed = sections.pop("federation", {})
    method = method or method_for(*names)
    return tiny_run(method, federation={"rounds": 3, "mixing": list(names), **changed}, **sections)


def visit_of(run: Run, **changes: Any) -> Visit:
    model = build_model(run, seed=0)
    plain = {
        "method": model,
        "given": shared_weights(model),
        "kept": {},
        "generator": torch.Generator().manual_seed(0),
        "round": 2,
        "run": run,
    }
    return Visit(**{**plain, **changes})


def made(name: str, **changes: Any) -> Mixing:
    run = mixed_run(name)
    ((_, kind, config),) = mixings_of(run)
    return kind(config, visit_of(run, **changes))


@pytest.fixture(params=MIXINGS.names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_it_cites_where_it_is_from(name: str) -> None:
    assert "https://" in MIXINGS.caption(name)


def test_what_it_sends_beside_the_model_has_its_own_prefix(name: str) -> None:
    plain = shared_weights(build_model(tiny_run(method_for(name)), seed=0))
    stays = build_model(mixed_run(name), seed=0).personal

    weights = shared_weights(build_model(mixed_run(name), seed=0))

    added = weights.keys() - plain.keys()
    assert all(one.startswith(f"{name}.") for one in added)
    assert weights.keys() - added == plain.keys() - stays
    assert all(torch.equal(weights[one], plain[one]) for one in weights.keys() - added)


def test_a_site_s_first_round_starts_from_what_came(name: str) -> None:
    mixing = made(name)

    start = mixing.start()

    assert start is mixing.visit.given


def test_what_came_is_never_written_into(name: str) -> None:
    mixing = made(name)
    before = {key: tensor.clone() for key, tensor in mixing.visit.given.items()}
    stored = torch.randint(0, 256, (4, 1, 16, 16), dtype=torch.uint8)
    views = imagined_views(
        mixing.visit.method, stored, lambda images, _: images / 64 - 2, torch.Generator()
    )

    mixing.losses(mixing.visit.method.losses(*views), *views).mean().backward()
    mixing.after_backward()
    trained = {key: tensor + 0.1 for key, tensor in mixing.visit.given.items()}
    sent, kept = mixing.sent(trained), mixing.keep(trained)

    given = mixing.visit.given
    assert all(torch.equal(given[key], before[key]) for key in before)
    assert sent.keys() == given.keys()
    assert all(isinstance(tensor, torch.Tensor) for tensor in kept.values())


def test_says_truly_whether_it_knows_images_by_their_gradients_alone(name: str) -> None:
    """Trap 8 of aggregation: what looks at images itself is refused beside privacy."""
    kind = MIXINGS.member(name)

    assert kind.private == (kind.losses is Mixing.losses and kind.told is Mixing.told)


def test_beside_privacy_what_looks_at_images_is_refused_before_anything_is_built(
    name: str,
) -> None:
    run = mixed_run(name, privacy=PRIVACY)

    if MIXINGS.member(name).private:
        build_model(run, seed=0)
    else:
        with pytest.raises(ConfigError, match=f"'{name}' looks at the images otherwise"):
            build_model(run, seed=0)


def test_a_method_that_lacks_what_it_works_on_is_refused(name: str) -> None:
    needs = MIXINGS.member(name).needs
    run = mixed_run(name, method="simmim")

    if needs:
        with pytest.raises(ConfigError, match=f"'{name}' works on a {needs[0]}, and method 'simm"):
            build_model(run, seed=0)
    else:
        build_model(run, seed=0)


def test_beside_any_other_method_than_those_it_names_it_is_refused(name: str) -> None:
    methods = MIXINGS.member(name).methods

    for method in METHODS.names():
        if methods is not None and method not in methods:
            with pytest.raises(ConfigError, match=f"federation.mixing '{name}' .* choose .*method"):
                build_model(mixed_run(name, method=method), seed=0)


def test_figures_that_it_names_are_those_it_tells(name: str) -> None:
    mixing = made(name)

    assert tuple(mixing.told()) == mixing.figures


def test_one_named_twice_and_two_that_choose_the_start_are_refused() -> None:
    with pytest.raises(ConfigError, match="'fedprox' twice"):
        build_model(mixed_run("fedprox", "fedprox"), seed=0)
    with pytest.raises(ConfigError, match="fedema and fedu each choose the weights"):
        build_model(mixed_run("fedema", "fedu"), seed=0)


def test_several_stand_side_by_side() -> None:
    model = build_model(mixed_run("fedprox", "fedx", "fedbn", "scaffold"), seed=0)

    shared = shared_weights(model)

    assert {key.split(".", 1)[0] for key in shared} >= {"fedx", "scaffold"}
    assert model.personal
    assert not model.personal & shared.keys()


@pytest.mark.parametrize("pattern", ["projector.*", "encoder.stem*", "*.bias"])
def test_any_weights_can_be_kept_at_a_site_by_name(pattern: str) -> None:
    run = mixed_run(federation={"personal": [pattern]})
    plain = shared_weights(build_model(tiny_run("byol"), seed=0))

    weights = shared_weights(build_model(run, seed=0))

    missing = plain.keys() - weights.keys()
    assert missing
    assert missing == build_model(run, seed=0).personal & plain.keys()


def test_a_pattern_that_names_nothing_is_told() -> None:
    with pytest.raises(ConfigError, match=r"'projektor\.\*' names no weight"):
        build_model(mixed_run(federation={"personal": ["projektor.*"]}), seed=0)
    with pytest.raises(ConfigError, match=r"layerwise: 'encoder.stm\*' names no weight"):
        build_model(mixed_run(train={"layerwise": {"stages": [["encoder.stm*"]]}}), seed=0)


@pytest.mark.parametrize(
    ("mixing", "pattern"),
    [
        ("fedx", "fedx.*"),
        ("orchestra", "orchestra.turns.*"),
        ("scaffold", "scaffold.*"),
        ("fedx", "*"),
    ],
)
def test_what_a_mixing_sends_is_never_said_to_stay(mixing: str, pattern: str) -> None:
    """A pattern that is taken and not followed would send what a hospital believes it keeps."""
    run = mixed_run(mixing, federation={"personal": [pattern]})

    for build in (lambda: build_model(run, seed=0), lambda: outline(run)):
        with pytest.raises(ConfigError, match=rf"names {mixing}\..* never stays: write a pattern"):
            build()


def test_a_run_that_keeps_every_weight_at_its_sites_is_told() -> None:
    with pytest.raises(ConfigError, match="keeps every weight at its site"):
        build_model(mixed_run(federation={"personal": ["*"]}), seed=0)


def test_a_release_holds_initial_values_of_what_stays_at_the_sites() -> None:
    run = mixed_run("fedbn")
    weights = {key: tensor + 1 for key, tensor in shared_weights(build_model(run, 0)).items()}

    released = whole_encoder(run, weights)

    initial = build_model(run, seed=0)
    assert released.keys() == initial.encoder.state_dict().keys()
    for key, tensor in initial.encoder.state_dict().items():
        moved = 0 if f"encoder.{key}" in initial.personal else 1
        assert torch.equal(released[key], tensor + moved)


@pytest.mark.parametrize("method", [name for name in METHODS.names() if name != "joint"])
def test_a_teacher_stays_whatever_is_mixed(method: str) -> None:
    """Trap 4 of aggregation."""
    weights = shared_weights(build_model(mixed_run("fedema", "fedprox", method=method), seed=0))

    local = tuple(f"{part}." for part in METHODS.member(method).local)
    assert not any(key.startswith(local) for key in weights) or not local

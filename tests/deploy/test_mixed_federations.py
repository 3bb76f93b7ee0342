"""Every mixing, rule and schedule in a federation of two sites, start to end."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_jobs import noise_job
from tiny_runs import ENCODERS, tiny_run

from confrere_common.config import Run
from confrere_common.errors import ConfigError
from confrere_common.mixing import MIXINGS
from confrere_deploy.check import checked
from confrere_deploy.engine import ENGINES
from confrere_deploy.explain import explained
from confrere_server.rule import RULES
from confrere_server.store import ServerState

SMALL: Mapping[str, Mapping[str, Any]] = {
    "fedsigreg": {"slices": 16, "memory": 32},
    "orchestra": {"centres": 8, "local": 4, "memory": 8},
}


def run_of(
    mixing: str | None = None, rule: Any = "mean", method: str | None = None, **more: Any
) -> Run:
    method = method or ((MIXINGS.member(mixing).methods if mixing else None) or ("byol",))[0]
    chosen = [{"name": mixing, **SMALL.get(mixing, {})}] if mixing else []
    federation = {"rounds": 3, "mixing": chosen, "rule": rule, **more.pop("federation", {})}
    cores = {"tensor_train": {"rank": 2}} if rule == "tensor_train" else {}
    encoder = {**ENCODERS["resnet"], **cores}
    train = {"steps_per_round": 1, **more}
    return tiny_run(method, train=train, federation=federation, encoder=encoder)


def carried(folder: Path, run: Run, **changes: Any) -> ServerState:
    return ENGINES.member("inline")(replace(noise_job(folder), run=run, **changes))


def must_be_sound(state: ServerState) -> None:
    assert [record.void for record in state.records] == ["", "", ""]
    assert all(len(record.sites) == 2 for record in state.records)
    assert all(not site.refused for record in state.records for site in record.sites)
    assert all(bool(tensor.isfinite().all()) for tensor in state.weights.values())


@pytest.mark.parametrize("mixing", MIXINGS.names())
def test_a_federation_that_mixes_goes_on_after_a_stop_as_if_there_was_none(
    mixing: str, tmp_path: Path
) -> None:
    rule: Any = MIXINGS.member(mixing).rule or "mean"
    run = run_of(mixing, {"name": rule, "steps": 20} if rule == "orchestra" else rule)

    whole = carried(tmp_path / "whole", run)
    carried(tmp_path / "parts", run, enough=lambda state: state.round >= 2)
    resumed = carried(tmp_path / "parts", run)

    must_be_sound(whole)
    assert resumed.round == whole.round == 3
    assert all(torch.equal(whole.weights[key], resumed.weights[key]) for key in whole.weights)


@pytest.mark.parametrize("rule", [name for name in RULES.names() if name != "orchestra"])
def test_a_federation_joins_by_every_rule(rule: str, tmp_path: Path) -> None:
    must_be_sound(carried(tmp_path, run_of(RULES.member(rule).mixing, rule, "simclr")))


@pytest.mark.parametrize("method", ["byol", "simmim"])
def test_layer_after_layer_and_with_weights_of_one_s_own(method: str, tmp_path: Path) -> None:
    stages = [["encoder.stem*"], ["encoder.stages*"]]
    run = run_of(method=method, federation={"personal": ["*.bias"]}, layerwise={"stages": stages})

    state = carried(tmp_path, run)

    must_be_sound(state)
    assert not any(key.endswith(".bias") for key in state.weights)


FAULTS: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "a mixing that is none": ({"mixing": ["fedproxx"]}, "did you mean 'fedprox'"),
    "a knob that is none": ({"mixing": [{"name": "fedema", "tua": 1}]}, "did you mean 'tau'"),
    "a rule without its mixing": ({"rule": "calibre"}, "add 'calibre' to federation.mixing"),
    "a mixing without its rule": ({"mixing": ["scaffold"], "rule": "median"}, "'scaffold' needs"),
    "a pattern of nothing": ({"personal": ["projektor.*"]}, "names no weight"),
    "two that choose the start": ({"mixing": ["fedema", "fedu"]}, "keep one of them"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_what_cannot_be_mixed_is_told_at_check(what: str, tiny: Path) -> None:
    changes, due = FAULTS[what]
    plain = yaml.safe_load(tiny.read_text())
    tiny.write_text(yaml.safe_dump({**plain, "federation": {"rounds": 3, **changes}}))

    with pytest.raises(ConfigError) as caught:
        checked(tiny)

    assert due in "\n".join(caught.value.faults)


def test_what_a_method_lacks_is_told_at_check(tiny: Path) -> None:
    with pytest.raises(ConfigError, match="'fedu' works on a predictor, and method 'simclr' has"):
        checked(tiny, ["method=simclr", "federation.mixing=[fedu]"])


def test_mixings_of_a_sound_run_are_explained(tiny: Path) -> None:
    told = explained(checked(tiny, ["federation.mixing=[fedprox, {name: fedema, tau: 0.5}]"]))

    for due in ("mixing: [fedprox, fedema]", "mu: 0.01", "tau: 0.5", "Strength of the pull"):
        assert due in told

"""What keeps a run from being submitted is told at once, before a hospital sees it."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from loopback import make_workspace
from safetensors.torch import load
from served import federated
from tiny_runs import tiny_run, tuning

from confrere_common.config import Run
from confrere_common.errors import CheckpointError, ConfigError
from confrere_common.family import Named
from confrere_common.finetune import Finetune
from confrere_common.loading import dump
from confrere_common.model import build_model, encoder_weights, input_of, shared_weights
from confrere_common.release import DECODER, Card, save_release
from confrere_common.secagg.section import SecureAggregation
from confrere_deploy.federation.submitting import must_be_federable, started, warm_weights
from confrere_server.runs.publish import ENCODER, publish
from confrere_server.runs.queue import submit
from confrere_server.runs.start_weights import fresh
from confrere_server.store import ServerState

FEDERABLE = federated()


def released(run: Run, path: Path) -> dict[str, Any]:
    weights = encoder_weights(shared_weights(build_model(run, 5)))
    channels, size = input_of(run)
    encoder = Named(name=run.encoder.name, knobs=dict(run.encoder.knobs))
    card = Card(encoder=encoder, channels=channels, size=size, preprocessing={}, training={})
    save_release(path, weights, card)
    return weights


def test_a_sound_run_may_be_submitted() -> None:
    must_be_federable(FEDERABLE)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": (0, 1)}, "seeds: 2 are given"),
        ({"data": replace(FEDERABLE.data, channels=None)}, "channels"),
        ({"data": replace(FEDERABLE.data, dims=None)}, "dims"),
        ({"data": replace(FEDERABLE.data, leave_out=("north",))}, "not being invited"),
        ({"data": replace(FEDERABLE.data, source=Named(name="phantom", knobs={}))}, "site"),
        ({"method": Named(name="mae", knobs={}), "encoder": Named(name="resnet", knobs={})}, "vit"),
        ({"encoder": Named(name="vit", knobs={"dim": 12, "heads": 5})}, "heads"),
    ],
)
def test_what_keeps_a_run_back_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        must_be_federable(replace(FEDERABLE, **changes))


def test_all_faults_are_told_at_once() -> None:
    data = replace(FEDERABLE.data, channels=None, source=Named(name="npz", knobs={"path": "x"}))

    with pytest.raises(ConfigError) as caught:
        must_be_federable(replace(FEDERABLE, seeds=(1, 2), data=data))

    faults = caught.value.faults
    assert len(faults) == 3
    assert sum("data.channels and data.dims are open" in fault for fault in faults) == 1


def test_a_fitting_release_is_what_the_encoder_starts_from(tmp_path: Path) -> None:
    due = released(FEDERABLE, tmp_path / "encoder.safetensors")

    found = load(warm_weights(FEDERABLE, tmp_path / "encoder.safetensors"))

    assert found.keys() == {f"encoder.{name}" for name in due}
    assert all(torch.equal(found[f"encoder.{name}"], due[name]) for name in due)
    assert warm_weights(FEDERABLE, None) == b""


def test_another_encoder_is_refused(tmp_path: Path) -> None:
    other = replace(FEDERABLE, encoder=replace(FEDERABLE.encoder, knobs={
        **FEDERABLE.encoder.knobs, "dim": 24,
    }))  # fmt: skip
    released(other, tmp_path / "encoder.safetensors")

    with pytest.raises(ConfigError, match="another encoder than the run's"):
        warm_weights(FEDERABLE, tmp_path / "encoder.safetensors")


def test_a_damaged_release_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    with pytest.raises(CheckpointError):
        warm_weights(FEDERABLE, path)
    released(FEDERABLE, path)
    path.write_bytes(path.read_bytes()[:-1] + b"!")

    with pytest.raises(CheckpointError):
        warm_weights(FEDERABLE, path)


def test_a_run_under_masks_needs_three_sites_and_says_so() -> None:
    masked = replace(FEDERABLE, secure_aggregation=SecureAggregation())
    three = replace(masked, federation=replace(masked.federation, min_sites=3))
    names = dict.fromkeys(("a", "b", "c"), "ab" * 32)

    must_be_federable(three, names)
    with pytest.raises(ConfigError, match="2 sites are enrolled"):
        must_be_federable(three, dict(list(names.items())[:2]))
    few = replace(three, federation=replace(three.federation, cohort=0.5))
    with pytest.raises(ConfigError, match="asks 2 of 3 sites"):
        must_be_federable(few, names)
    with pytest.raises(ConfigError, match=r"federation\.min_sites is 1"):
        must_be_federable(masked, names)


def test_a_rule_that_looks_at_single_updates_is_refused_under_masks() -> None:
    rule = Named(name="median", knobs={})
    federation = replace(FEDERABLE.federation, min_sites=3, rule=rule)
    run = replace(FEDERABLE, federation=federation, secure_aggregation=SecureAggregation())

    with pytest.raises(ConfigError, match="'median' looks at single updates"):
        must_be_federable(run, dict.fromkeys(("a", "b", "c"), "ab" * 32))


def tuned(**finetune: Any) -> Run:
    section = Finetune(**{"classes": ("a", "b"), **finetune})
    return replace(FEDERABLE, stage="finetune", finetune=section)


def test_a_start_s_digest_goes_out_and_its_path_stays(tmp_path: Path) -> None:
    path = tmp_path / "SMITH" / "encoder.safetensors"
    path.parent.mkdir()
    released(FEDERABLE, path)

    by_field, one = started(tuned(start="SMITH/encoder.safetensors"), tmp_path, None)
    by_option, two = started(tuned(), Path("elsewhere"), path)

    assert by_field == by_option
    assert by_field.finetune is not None
    assert by_field.finetune.start_digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "SMITH" not in dump(by_field)
    assert one == two == path
    must_be_federable(by_field)
    assert warm_weights(by_field, one) == warm_weights(FEDERABLE, path)


def test_a_sealed_decoder_starts_the_next_run_as_well(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "study")
    first = tiny_run("medsass")
    then = tuning("segmentation", knobs={"width": 4}, start_decoder=True)
    then = replace(then, encoder=first.encoder)
    folder = submit(workspace.runs, first)
    weights = shared_weights(build_model(first, 5))
    publish(workspace, folder, ServerState(round=2, weights=weights, step={}), {})
    sealed = json.loads((folder.path / "release.json").read_text())
    assert DECODER in str(sealed)

    warm = warm_weights(then, folder.path / ENCODER)
    started = fresh(submit(workspace.runs, then, warm=warm), then).weights

    taken = [name for name in started if not name.startswith("head.out.")]
    assert len(taken) == len(started) - 2
    for name in taken:
        assert torch.equal(started[name], weights[name.replace("head.", "decoder.")])


def test_a_run_from_scratch_or_of_another_stage_is_left_as_it_is(tmp_path: Path) -> None:
    release = tmp_path / "encoder.safetensors"

    assert started(tuned(), tmp_path, None) == (tuned(), None)
    assert started(FEDERABLE, tmp_path, release) == (FEDERABLE, release)


def test_two_starts_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave one out"):
        started(tuned(start="x.safetensors"), tmp_path, tmp_path / "y.safetensors")


def test_a_start_that_is_another_encoder_is_refused(tmp_path: Path) -> None:
    other = replace(FEDERABLE, encoder=Named(name="vit", knobs={"dim": 24, "depth": 1}))
    released(other, tmp_path / "encoder.safetensors")

    with pytest.raises(ConfigError, match="is another encoder than the run's"):
        started(tuned(), tmp_path, tmp_path / "encoder.safetensors")


def test_classes_that_no_hospital_could_agree_on_are_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"finetune\.classes is open"):
        must_be_federable(tuned(classes=None))

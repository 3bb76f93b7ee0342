"""Fine-tuning starts from the encoder of a release, and segmentation from its decoder as well."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import tiny_run, tuning

from confrere_client.finetune.start import way_up, with_start
from confrere_common.config import Run
from confrere_common.errors import CheckpointError, ConfigError
from confrere_common.model import (
    build_model,
    decoder_weights,
    input_of,
    shared_weights,
    whole_encoder,
)
from confrere_common.release import DECODER, Card, save_release
from confrere_common.weights import Weights


def released(run: Run, folder: Path) -> tuple[Path, Weights]:
    """Save what *run* would leave; return the encoder's path and all that was trained."""
    weights = shared_weights(build_model(run, seed=7))
    channels, size = input_of(run)
    card = Card(encoder=run.encoder, channels=channels, size=size, preprocessing={}, training={})
    path = folder / "encoder.safetensors"
    save_release(path, whole_encoder(run, weights), card, decoder_weights(run, weights))
    return path, weights


def segmenting(path: Path, width: int = 4, **changes: Any) -> Run:
    knobs = {"start": str(path), "start_decoder": True, **changes}
    return tuning("segmentation", knobs={"width": width}, **knobs)


@pytest.mark.parametrize("method", ["medsass", "resection", "maxtree"])
def test_segmentation_starts_from_the_decoder_too(method: str, tmp_path: Path) -> None:
    path, trained = released(tiny_run(method), tmp_path)

    run, warm = with_start(segmenting(path), tmp_path)

    fresh = shared_weights(build_model(run, seed=0))
    head = {name for name in fresh if name.startswith("head.")}
    assert warm.keys() == fresh.keys() - {name for name in head if ".out." in name}
    for name, tensor in warm.items():
        assert torch.equal(tensor, trained[name.replace("head.", "decoder.")])
    assert any(not torch.equal(warm[name], fresh[name]) for name in warm if name in head)


def test_a_segmentation_starts_from_an_earlier_one(tmp_path: Path) -> None:
    path, trained = released(tuning("segmentation", knobs={"width": 4}), tmp_path)

    _, warm = with_start(segmenting(path, classes=("other",)), tmp_path)

    assert torch.equal(warm["head.levels.0.0.weight"], trained["head.levels.0.0.weight"])
    assert not any(".out." in name for name in warm)


@pytest.mark.parametrize(
    "changes", [{"start_decoder": False}, {"head": "local"}, {"start_decoder": False, "width": 8}]
)
def test_the_encoder_alone_is_taken_where_that_is_asked_or_the_head_stays(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    path, _ = released(tiny_run("medsass"), tmp_path)

    _, warm = with_start(segmenting(path, **changes), tmp_path)

    assert warm
    assert all(name.startswith("encoder.") for name in warm)


def test_a_decoder_is_taken_over_only_when_asked(tmp_path: Path) -> None:
    path, _ = released(tiny_run("medsass"), tmp_path)

    _, warm = with_start(tuning("segmentation", knobs={"width": 8}, start=str(path)), tmp_path)

    assert all(name.startswith("encoder.") for name in warm)


def test_other_tasks_and_other_methods_have_no_decoder_to_start_from(tmp_path: Path) -> None:
    path, _ = released(tiny_run("medsass"), tmp_path)
    assert way_up(tuning(start=str(path)), path) == {}

    path, _ = released(tiny_run("simclr"), tmp_path)
    assert not (tmp_path / DECODER).exists()
    assert way_up(segmenting(path), path) == {}


def test_a_decoder_of_another_width_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path, _ = released(tiny_run("medsass"), tmp_path)

    with pytest.raises(ConfigError, match=r"finetune\.task\.width .* or start_decoder: false"):
        with_start(segmenting(path, width=8), tmp_path)


def test_a_decoder_that_was_altered_or_lost_is_refused(tmp_path: Path) -> None:
    path, _ = released(tiny_run("medsass"), tmp_path)
    whole = (tmp_path / DECODER).read_bytes()

    (tmp_path / DECODER).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"is not the file that encoder\.json describes"):
        with_start(segmenting(path), tmp_path)
    (tmp_path / DECODER).unlink()
    with pytest.raises(CheckpointError, match="No such file"):
        with_start(segmenting(path), tmp_path)

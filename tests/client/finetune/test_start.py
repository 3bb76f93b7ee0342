"""Fine-tuning starts from the encoder of a release, and segmentation from its decoder as well."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import tiny_run, tuning

from confrere_client.finetune.start import with_start
from confrere_common.config import Run
from confrere_common.errors import CheckpointError, ConfigError
from confrere_common.family import Named
from confrere_common.model import (
    build_model,
    decoder_weights,
    input_of,
    shared_weights,
    task_of,
    whole_encoder,
)
from confrere_common.release import DECODER, Card, load_decoder, load_release, save_release
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


def digest_of(run: Run) -> str | None:
    task = task_of(run)
    assert task is not None
    return task.start_decoder_digest


@pytest.mark.parametrize("method", ["medsass", "resection", "maxtree", "spark", "simmim"])
def test_segmentation_starts_from_the_decoder_too(method: str, tmp_path: Path) -> None:
    run = tiny_run(method)
    if method == "simmim":
        knobs = {**run.method.knobs, "decoder": "unet", "width": 4}
        run = replace(run, method=Named(name=method, knobs=knobs))
    path, trained = released(run, tmp_path)

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


def test_an_anomaly_starts_from_what_heteroae_foretells_with(tmp_path: Path) -> None:
    path, trained = released(tiny_run("heteroae"), tmp_path)
    knobs = {"normal": "a", "bottleneck": 8}

    run, warm = with_start(
        tuning("anomaly", knobs=knobs, start=str(path), start_decoder=True), tmp_path
    )

    assert warm.keys() == shared_weights(build_model(run, seed=0)).keys()
    for name, tensor in warm.items():
        assert torch.equal(tensor, trained[name.removeprefix("head.")])
    with pytest.raises(ConfigError, match=r"another width or kind .* 'decoder.*' is .* nothing"):
        with_start(segmenting(path), tmp_path)


def test_a_decoder_is_taken_over_only_when_asked(tmp_path: Path) -> None:
    path, _ = released(tiny_run("medsass"), tmp_path)

    run, warm = with_start(tuning("segmentation", knobs={"width": 8}, start=str(path)), tmp_path)

    assert warm
    assert all(name.startswith("encoder.") for name in warm)
    assert digest_of(run) is None


def test_a_decoder_is_refused_where_it_would_go_nowhere(tmp_path: Path) -> None:
    path, _ = released(tiny_run("medsass"), tmp_path)
    classing = tuning(start=str(path), start_decoder=True)

    for run in (classing, segmenting(path, head="local")):
        with pytest.raises(ConfigError, match=r"has none that travels\. start_decoder: false"):
            with_start(run, tmp_path)


@pytest.mark.parametrize("personal", [(), ("decoder.levels.*",)])
def test_a_release_without_a_whole_decoder_is_told_of(
    personal: tuple[str, ...], tmp_path: Path
) -> None:
    run = tiny_run("medsass", federation={"personal": list(personal)}) if personal else tiny_run()
    path, _ = released(run, tmp_path)

    assert not (tmp_path / DECODER).exists()
    with pytest.raises(ConfigError, match=r"came with none\. start_decoder: false"):
        with_start(segmenting(path), tmp_path)


def test_a_decoder_of_another_width_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path, _ = released(tiny_run("medsass"), tmp_path)

    with pytest.raises(ConfigError, match=r"finetune\.task\.width .* start_decoder: false"):
        with_start(segmenting(path, width=8), tmp_path)


def test_a_decoder_has_its_digest_in_the_run(tmp_path: Path) -> None:
    path, _ = released(tiny_run("medsass"), tmp_path)
    run, _ = with_start(segmenting(path), tmp_path)
    digest = digest_of(run)
    assert digest == hashlib.sha256((tmp_path / DECODER).read_bytes()).hexdigest()

    again, _ = with_start(segmenting(path, start_decoder_digest=digest), tmp_path)
    assert digest_of(again) == digest
    with pytest.raises(CheckpointError, match=r"start_decoder_digest is 0000"):
        with_start(segmenting(path, start_decoder_digest="0" * 64), tmp_path)


def test_what_is_no_tensors_is_refused_though_the_card_names_it(tmp_path: Path) -> None:
    path, _ = released(tiny_run("medsass"), tmp_path)
    (tmp_path / DECODER).write_bytes(b"garbage")
    card = json.loads((tmp_path / "encoder.json").read_bytes())
    card["decoder"]["sha256"] = hashlib.sha256(b"garbage").hexdigest()
    (tmp_path / "encoder.json").write_text(json.dumps(card))

    with pytest.raises(CheckpointError, match=r"decoder\.safetensors holds no tensors"):
        with_start(segmenting(path), tmp_path)


def test_a_decoder_that_was_altered_or_lost_is_refused(tmp_path: Path) -> None:
    path, _ = released(tiny_run("medsass"), tmp_path)
    whole = (tmp_path / DECODER).read_bytes()

    (tmp_path / DECODER).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"is not the file that encoder\.json describes"):
        with_start(segmenting(path), tmp_path)
    (tmp_path / DECODER).unlink()
    with pytest.raises(CheckpointError, match=r"No such file.*start_decoder: false"):
        with_start(segmenting(path), tmp_path)


def test_an_encoder_that_was_renamed_still_has_its_decoder(tmp_path: Path) -> None:
    path, _ = released(tiny_run("medsass"), tmp_path)
    for end in (".safetensors", ".json"):
        path.with_suffix(end).rename(tmp_path / f"lung{end}")

    _, warm = with_start(segmenting(tmp_path / "lung.safetensors"), tmp_path)

    assert any(not name.startswith("encoder.") for name in warm)


def test_two_releases_in_one_folder_have_a_decoder_each(tmp_path: Path) -> None:
    path, _ = released(tiny_run("medsass"), tmp_path)
    encoder, card = load_release(path)
    other = {name: tensor + 1 for name, tensor in load_decoder(path)[0].items()}
    save_release(tmp_path / "lung.safetensors", encoder.state_dict(), card, other)

    (one, _), (two, _) = load_decoder(path), load_decoder(tmp_path / "lung.safetensors")

    assert all(torch.equal(one[name] + 1, two[name]) for name in one)

"""The encoders of an evaluation: their names, and the scratch that each is compared with."""

from dataclasses import replace
from pathlib import Path

import pytest
from evaluated import RUN, paint

from confrere_common.errors import ConfigError
from confrere_common.loading import parse_run
from confrere_common.model import build_model, encoder_weights, input_of
from confrere_common.release import Card, save_release
from confrere_deploy.evaluation.contestants import contestants, names_of
from confrere_deploy.families import ALL_FAMILIES


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    run_file = paint(tmp_path)
    plain = {**RUN, "train": {**RUN["train"], "batch": 0}}
    encoders = [tmp_path / "none", tmp_path / "absent.safetensors"]

    with pytest.raises(ConfigError) as told:
        contestants(plain, encoders, str(run_file))

    assert len(told.value.faults) >= 3
    assert "batch" in str(told.value)
    assert "absent" in str(told.value)


def test_each_architecture_has_its_own_scratch(tmp_path: Path) -> None:
    plain = {**RUN, "finetune": {"task": "classification", "classes": ["a", "b"]}}
    for name, width in (("narrow", 8), ("wide", 16), ("again", 16)):
        encoder = {"name": "resnet", "width": width, "stem": "small"}
        run = parse_run({**plain, "encoder": encoder}, ALL_FAMILIES)
        run = replace(run, data=replace(run.data, dims=2))
        channels, size = input_of(run)
        card = Card(encoder=run.encoder, channels=channels, size=size,
                    preprocessing={}, training={})  # fmt: skip
        (tmp_path / name).mkdir()
        weights = encoder_weights(build_model(run, 0).state_dict())
        save_release(tmp_path / name / "encoder.safetensors", weights, card)

    found = contestants(plain, [tmp_path / name for name in ("narrow", "wide", "again")], "run")

    widths = {one.name: one.run.encoder.knobs["width"] for one in found}
    assert widths["scratch, resnet as narrow"] == widths["random resnet as narrow, frozen"] == 8
    assert widths["scratch, resnet as wide"] == widths["random resnet as wide, frozen"] == 16
    assert len(found) == 10


def test_encoders_are_called_by_their_folder_and_none_twice(tmp_path: Path) -> None:
    paths = [tmp_path / "a/encoder.safetensors", tmp_path / "b/a/encoder.safetensors",
             tmp_path / "vit.safetensors", tmp_path / "scratch/encoder.safetensors"]  # fmt: skip

    assert names_of(paths) == ["a", "a (2)", "vit", "scratch (1)"]

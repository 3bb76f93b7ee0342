"""``network.load_task``: "Guarantee: where network, run or encoder is not the file that the card
names, CheckpointError; so it is where any file of a signed release was altered, and with a *key*
where nobody signed."
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from networks import fresh
from tiny_runs import ENCODERS, tuning

from confrere_common.config import Run
from confrere_common.errors import CheckpointError, ConfigError
from confrere_common.loading import dump
from confrere_common.manifest import NAME as MANIFEST
from confrere_common.manifest import signed_manifest
from confrere_common.model import build_model
from confrere_common.network import NETWORK, RUN, load_task
from confrere_common.release import load_release, save_release
from confrere_common.task import FineTask

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
TASKS = {
    "anomaly": {"normal": "b", "bottleneck": 8},
    "classification": {"kind": "ordinal"},
    "detection": {"width": 8},
    "retrieval": {"out": 8},
    "segmentation": {"width": 4},
}
IMAGES = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def built(run: Run, seed: int = 0) -> FineTask:
    task = build_model(run, seed)
    assert isinstance(task, FineTask)
    return task.eval()


def signed(folder: Path) -> Path:
    (folder / MANIFEST).write_bytes(signed_manifest(folder, {}, KEY))
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_a_network_answers_as_it_was_left(task: str, tmp_path: Path) -> None:
    run = tuning(task, knobs=TASKS[task])

    network = load_task(fresh(tmp_path, run))

    assert network.name == task
    assert dump(network.run) == dump(run)
    assert network.task.classes == ("a", "b", "c")
    assert not network.task.training
    with torch.inference_mode():
        assert torch.equal(network.task.predict(IMAGES), built(run).predict(IMAGES))


MODES = [*((kind, "full") for kind in ENCODERS), ("vit", "lora")]


@pytest.mark.parametrize(("kind", "mode"), MODES)
def test_head_encoder_and_card_come_with_it(kind: str, mode: str, tmp_path: Path) -> None:
    run = tuning(kind=kind, mode=mode)

    network = load_task(fresh(tmp_path, run) / "encoder.safetensors")

    encoder, card = load_release(tmp_path / "encoder.safetensors")
    assert network.card == card
    assert card.preprocessing["mean"] == 0.5
    with torch.inference_mode():
        assert torch.allclose(network.task.encoder(IMAGES), encoder(IMAGES), atol=1e-5)
        features = network.task.encoder(IMAGES)
        assert torch.equal(network.task.head(features).softmax(1), network.task.predict(IMAGES))


FILES = (NETWORK, RUN, "encoder.safetensors")


@pytest.mark.parametrize(
    ("name", "released"),
    [*((name, False) for name in FILES), *((name, True) for name in (*FILES, "encoder.json"))],
)
def test_an_altered_network_is_refused(name: str, released: bool, tmp_path: Path) -> None:
    folder = fresh(tmp_path / "one", tuning())
    folder = signed(folder) if released else folder
    content = bytearray((folder / name).read_bytes())

    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)

    with pytest.raises(CheckpointError):
        load_task(folder)


@pytest.mark.parametrize("name", [NETWORK, RUN])
def test_a_file_of_another_fine_tuning_is_refused(name: str, tmp_path: Path) -> None:
    folder = fresh(tmp_path / "one", tuning())
    other = fresh(tmp_path / "two", tuning(classes=["c", "b", "a"]), seed=1)

    shutil.copy(other / name, folder / name)

    with pytest.raises(CheckpointError, match=f"{name} is not the file that"):
        load_task(folder)


def test_a_network_is_missed_that_was_taken_away(tmp_path: Path) -> None:
    folder = fresh(tmp_path, tuning())

    (folder / NETWORK).unlink()

    with pytest.raises(CheckpointError, match=f"{NETWORK} cannot be read"):
        load_task(folder)


def test_with_a_key_it_must_be_signed_by_its_owner(tmp_path: Path) -> None:
    folder = fresh(tmp_path, tuning())

    with pytest.raises(CheckpointError, match="nobody vouches for its files"):
        load_task(folder, KEY.public_key())
    assert load_task(signed(folder), KEY.public_key()).name == "classification"
    with pytest.raises(CheckpointError, match="signed with another key"):
        load_task(folder, Ed25519PrivateKey.generate().public_key())


def test_a_release_of_an_older_version_is_vouched_for_by_its_manifest_alone(
    tmp_path: Path,
) -> None:
    folder = fresh(tmp_path, tuning())
    plain = json.loads((folder / "encoder.json").read_text())
    del plain["network"]
    (folder / "encoder.json").write_text(json.dumps(plain))

    with pytest.raises(CheckpointError, match=r"nobody vouches for task\.safetensors.*export"):
        load_task(folder)

    assert load_task(signed(folder)).name == "classification"


def test_an_encoder_alone_answers_nothing(tmp_path: Path) -> None:
    folder = fresh(tmp_path / "one", tuning())
    encoder, card = load_release(folder / "encoder.safetensors")
    alone = tmp_path / "two/encoder.safetensors"
    save_release(alone, encoder.state_dict(), replace(card, network={}))

    with pytest.raises(ConfigError, match=r"encoder alone, of a pre-training.*confrere embed"):
        load_task(alone.parent)
    with pytest.raises(ConfigError, match="there is nothing"):
        load_task(tmp_path / "three")


def test_a_head_that_stayed_at_its_sites_is_told_of(tmp_path: Path) -> None:
    folder = fresh(tmp_path, tuning(head="local"))

    assert not (folder / NETWORK).exists()
    with pytest.raises(ConfigError, match=r"kept it at each site \(finetune\.head: local\)"):
        load_task(folder)


def test_weights_that_stayed_at_their_sites_are_told_of(tmp_path: Path) -> None:
    run = tuning()
    run = replace(run, federation=replace(run.federation, personal=("encoder.stem.1.*",)))

    with pytest.raises(ConfigError, match="weights stayed at the sites, first 'encoder"):
        load_task(fresh(tmp_path, run))


def test_a_run_of_a_later_version_is_no_crash(tmp_path: Path) -> None:
    folder = fresh(tmp_path, tuning())
    plain = json.loads((folder / RUN).read_text())
    (folder / RUN).write_text(json.dumps({**plain, "quantum": True}))
    card = json.loads((folder / "encoder.json").read_text())
    del card["network"]
    (folder / "encoder.json").write_text(json.dumps(card))

    with pytest.raises(CheckpointError, match="no run that this version reads"):
        load_task(signed(folder))

"""A release gives back the very encoder, or says which of its two files is at fault."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import ENCODERS, SIDE, noise

from confrere_common.encoder import Encoder, build_encoder
from confrere_common.errors import CheckpointError
from confrere_common.family import Named
from confrere_common.release import SCHEMA, Card, load_release, save_release


def card_of(kind: str) -> Card:
    knobs = {key: value for key, value in ENCODERS[kind].items() if key != "name"}
    return Card(
        encoder=Named(name=kind, knobs=knobs),
        channels=1,
        size=(SIDE, SIDE),
        preprocessing={"image_px": SIDE},
        training={"method": "simclr", "sites": [{"site": "north", "images": 12}]},
    )


def encoder_of(card: Card, seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    return build_encoder(card.encoder, channels=card.channels, size=card.size).eval()


@pytest.fixture
def released(tmp_path: Path) -> Path:
    card = card_of("resnet")
    save_release(tmp_path / "encoder.safetensors", encoder_of(card).state_dict(), card)
    return tmp_path / "encoder.safetensors"


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_release_gives_the_same_features(kind: str, tmp_path: Path) -> None:
    card = card_of(kind)
    encoder = encoder_of(card)
    images = noise(3).images_BCYX.float() / 255

    save_release(tmp_path / "encoder.safetensors", encoder.state_dict(), card)
    found, read = load_release(tmp_path / "encoder.safetensors")

    assert read == card
    assert not found.training
    assert torch.equal(found(images), encoder(images))


def test_a_second_release_in_the_same_place_replaces_the_first(released: Path) -> None:
    card = card_of("resnet")
    other = encoder_of(card, seed=1)

    save_release(released, other.state_dict(), card)

    found, _ = load_release(released)
    assert torch.equal(found.state_dict()["stem.0.weight"], other.state_dict()["stem.0.weight"])
    assert sorted(p.name for p in released.parent.iterdir()) == [
        "encoder.json",
        "encoder.safetensors",
    ]


def test_a_truncated_file_is_not_the_one_on_the_card(released: Path) -> None:
    released.write_bytes(released.read_bytes()[:-1])

    with pytest.raises(CheckpointError, match=r"not the file that encoder\.json describes"):
        load_release(released)


def test_the_card_of_another_release_does_not_fit(released: Path, tmp_path: Path) -> None:
    card = card_of("resnet")
    other = tmp_path / "other.safetensors"
    save_release(other, encoder_of(card, seed=1).state_dict(), card)

    released.with_suffix(".json").write_bytes(other.with_suffix(".json").read_bytes())

    with pytest.raises(CheckpointError, match=r"encoder\.safetensors is not the file"):
        load_release(released)


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_the_missing_one_of_the_two_is_named(released: Path, suffix: str) -> None:
    released.with_suffix(suffix).unlink()

    with pytest.raises(CheckpointError, match=rf"encoder\{suffix} cannot be read: No such file"):
        load_release(released)


def put(place: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(plain: dict[str, Any]) -> None:
        *parents, last = place.split(".")
        for key in parents:
            plain = plain[key]
        plain[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "due"),
    [
        (put("schema", SCHEMA + 1), f"has schema {SCHEMA + 1}; this reads {SCHEMA}"),
        (put("encoder.width", 16), "does not fit its card"),
        (put("encoder.name", "resent"), "did you mean 'resnet'"),
        (put("encoder.widht", 16), "did you mean 'width'"),
        (put("encoder", "resnet"), "is not an encoder's card"),
        (put("encoder", []), "is not an encoder's card"),
        (put("input.channels", "many"), "is not an encoder's card"),
        (put("input.channels", 3), "does not fit its card"),
        (put("input.size", 16), "is not an encoder's card"),
        (dict.clear, "is not an encoder's card"),
    ],
)
def test_a_card_that_was_altered_is_told_as_such(
    released: Path, change: Callable[[dict[str, Any]], None], due: str
) -> None:
    path = released.with_suffix(".json")
    plain = json.loads(path.read_bytes())

    change(plain)
    path.write_text(json.dumps(plain))

    with pytest.raises(CheckpointError, match=due):
        load_release(released)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"3"])
def test_a_card_that_is_no_card_is_told_as_such(released: Path, content: bytes) -> None:
    released.with_suffix(".json").write_bytes(content)

    with pytest.raises(CheckpointError, match=r"encoder\.json is not an encoder's card"):
        load_release(released)

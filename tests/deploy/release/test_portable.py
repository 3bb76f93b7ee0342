"""ONNX and torch.export give the encoder's own features, in 2-D and 3-D, of every encoder."""

from pathlib import Path

import pytest
import torch
from tiny_runs import ENCODERS as TINY

from confrere_common.encoder import ENCODERS, Encoder, build_encoder
from confrere_common.errors import CheckpointError, ConfigError
from confrere_common.family import Named
from confrere_deploy.release import portable
from confrere_deploy.release.portable import LIMIT, write_portable


def encoder_of(kind: str, size: tuple[int, ...], channels: int = 1) -> Encoder:
    knobs = {key: value for key, value in TINY[kind].items() if key != "name"}
    torch.manual_seed(0)
    return build_encoder(Named(name=kind, knobs=knobs), channels=channels, size=size).eval()


@pytest.mark.parametrize("size", [(16, 16), (16, 16, 16)], ids=["2-D", "3-D"])
@pytest.mark.parametrize("kind", ENCODERS.names())
def test_an_exported_program_computes_what_the_encoder_does(
    kind: str, size: tuple[int, ...], tmp_path: Path
) -> None:
    encoder = encoder_of(kind, size)
    images = torch.randn(5, 1, *size)

    told = write_portable(encoder, tmp_path, ("torch",))

    assert told["encoder.pt2"]["largest_difference"] <= LIMIT
    read = torch.export.load(tmp_path / "encoder.pt2").module()
    assert torch.allclose(read(images), encoder(images), atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "size"), [("vit", (16, 16)), ("resnet", (16, 16, 16))], ids=["vit 2-D", "resnet 3-D"]
)
def test_an_onnx_file_computes_what_the_encoder_does(
    kind: str, size: tuple[int, ...], tmp_path: Path
) -> None:
    """Two of the six: each takes seconds, and the writer itself compares what it wrote."""
    told = write_portable(encoder_of(kind, size), tmp_path, ("onnx",))

    assert told["encoder.onnx"]["largest_difference"] <= LIMIT
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.onnx"]


def test_nothing_wanted_writes_nothing(tmp_path: Path) -> None:
    assert write_portable(encoder_of("vit", (16, 16)), tmp_path, ()) == {}
    assert not list(tmp_path.iterdir())


def test_an_unknown_format_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="format 'torchscript' is unknown; known: onnx, torch"):
        write_portable(encoder_of("vit", (16, 16)), tmp_path, ("torchscript",))


def test_a_file_that_computes_something_else_is_refused() -> None:
    due = torch.ones(2, 3)

    assert portable._compared(due + 1e-6, due, "x") == pytest.approx(1e-6, rel=0.1)
    for found in (due + 1e-3, due[:1], due * float("nan")):
        with pytest.raises(CheckpointError, match="x differs from the encoder"):
            portable._compared(found, due, "x")

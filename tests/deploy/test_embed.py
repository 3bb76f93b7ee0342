"""A released encoder embeds what it learned from: pictures, slices or volumes of a data set."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_runs import tiny_run
from typer.testing import CliRunner

from confrere_client.data.images import images_of
from confrere_client.embed import features, load
from confrere_client.ingest.prepare import Order, prepare
from confrere_client.ingest.preprocess_plan import Plan
from confrere_client.source import open_source
from confrere_common.encoder import build_encoder
from confrere_common.errors import DataError
from confrere_common.family import Named
from confrere_common.model import preprocessing_of
from confrere_common.release import Card, save_release
from confrere_deploy.cli import app

SIDE = 16
RESNET = Named(name="resnet", knobs={"width": 8, "groups": 4})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a data set of three pictures and four volumes."""
    made = tmp_path_factory.mktemp("embedded")
    (made / "in").mkdir()
    rng = np.random.default_rng(0)
    np.savez(made / "in/p.npz", train_images=rng.integers(0, 255, (3, 20, 14, 1), np.uint8))
    deep = rng.integers(0, 255, (4, 9, 8, 7, 1), np.uint8)
    np.savez(made / "in/v.npz", dims=3, train_images=deep)
    prepare(Order(sources=(made / "in",), dataset=made / "set", plan=Plan(image_px=None)))
    return made


def released(path: Path, dims: int, prepared: dict[str, Any] | None = None) -> Path:
    size = (SIDE,) * dims
    card = Card(
        encoder=RESNET,
        channels=1,
        size=size,
        training={},
        preprocessing=preprocessing_of(tiny_run(), prepared),
    )
    save_release(path, build_encoder(RESNET, channels=1, size=size).state_dict(), card)
    return path


@pytest.mark.parametrize(("dims", "count"), [(2, 3), (3, 4)])
def test_a_data_set_is_embedded_as_a_run_sees_it(
    folder: Path, tmp_path: Path, dims: int, count: int
) -> None:
    embedder = load(released(tmp_path / "encoder.safetensors", dims), device="cpu")

    keys, found = embedder.embed_prepared(folder / "set")

    named = Named(name="prepared", knobs={"path": str(folder / "set"), "dims": dims})
    images = images_of(
        open_source(named, folder), image_px=SIDE, channels=1, cache_dir=tmp_path / "cache"
    )
    due = features(embedder.encoder, images, embedder.device)
    assert keys == images.catalog.names.tolist()
    assert found.shape == (count, embedder.encoder.width)
    assert np.allclose(found, due, atol=1e-5)


def test_an_encoder_of_slices_embeds_slices(folder: Path, tmp_path: Path) -> None:
    path = released(tmp_path / "encoder.safetensors", 2, {"slices": "axial"})

    keys, found = load(path, device="cpu").embed_prepared(folder / "set")

    assert len(keys) == len(found) == 3 + 4 * 9
    assert sum("#" in key for key in keys) == 4 * 9


def test_a_data_set_that_was_prepared_otherwise_is_taken_and_warned_of(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = released(tmp_path / "encoder.safetensors", 3, {"ct_windows": ["lung"]})

    with caplog.at_level(logging.WARNING):
        load(path, device="cpu").embed_prepared(folder / "set")

    assert "ct_windows is ['wide'], not ['lung']" in caplog.text


def test_files_are_no_input_of_an_encoder_of_volumes(folder: Path, tmp_path: Path) -> None:
    embedder = load(released(tmp_path / "encoder.safetensors", 3), device="cpu")

    assert embedder.card.size == (SIDE, SIDE, SIDE)
    with pytest.raises(DataError, match="confrere client prepare"):
        embedder.embed(folder / "in")


def test_the_command_embeds_a_data_set_by_the_keys_of_its_exams(
    folder: Path, tmp_path: Path
) -> None:
    path = released(tmp_path / "encoder.safetensors", 3)
    out = tmp_path / "features.parquet"

    words = ["embed", str(path), str(folder / "set"), "--out", str(out), "--device", "cpu"]
    result = CliRunner().invoke(app, words)

    assert result.exit_code == 0, result.output
    table = pq.read_table(out)
    assert table.column_names == ["key", "features"]
    assert table.num_rows == 4

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from confrere_client.data.images import content_digest, open_images
from confrere_client.source import Source, open_source
from confrere_common.errors import DataError
from confrere_common.family import Named

Paint = Callable[..., Path]


def source_of(folder: Path, **knobs: Any) -> Source:
    return open_source(Named(name="folder", knobs={"path": "x", **knobs}), folder)


def labels(source: Source) -> dict[str, str]:
    return {record.name: record.label for record in source.records()}


def test_finds_images_at_any_depth_by_name(tmp_path: Path, paint: Paint) -> None:
    for name in ("b.png", "a/c/d.JPG", "a/._d.jpg", ".hidden/e.png"):
        paint(tmp_path / "x" / name)
    (tmp_path / "x" / "notes.txt").write_text("no image")

    assert labels(source_of(tmp_path)) == {"a/c/d.JPG": "", "b.png": ""}


def test_takes_several_top_folders_for_classes(tmp_path: Path, paint: Paint) -> None:
    for name in ("ill/1.png", "well/deep/2.png", "3.png"):
        paint(tmp_path / "x" / name)

    assert labels(source_of(tmp_path)) == {
        "3.png": "",
        "ill/1.png": "ill",
        "well/deep/2.png": "well",
    }
    assert set(labels(source_of(tmp_path, labels="none")).values()) == {""}


def test_takes_a_single_top_folder_for_a_class_only_when_told(tmp_path: Path, paint: Paint) -> None:
    paint(tmp_path / "x" / "ill" / "1.png")

    assert labels(source_of(tmp_path)) == {"ill/1.png": ""}
    assert labels(source_of(tmp_path, labels="folders")) == {"ill/1.png": "ill"}


def test_takes_folders_called_like_splits_for_splits(tmp_path: Path, paint: Paint) -> None:
    for name in ("train/ill/1.png", "train/well/2.png", "Test/ill/3.png"):
        paint(tmp_path / "x" / name)

    found = [(record.split, record.label) for record in source_of(tmp_path).records()]

    assert found == [("test", "ill"), ("train", "ill"), ("train", "well")]


def test_each_image_is_its_own_patient(tmp_path: Path, paint: Paint) -> None:
    for name in ("a/1.png", "b/1.png"):
        paint(tmp_path / "x" / name)

    assert len({record.patient for record in source_of(tmp_path).records()}) == 2


def test_says_what_it_looked_for_in_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()

    with pytest.raises(DataError, match=r"'x' holds no image.*\.png, \.jpg, \.jpeg, \.tif"):
        source_of(tmp_path).records()


def test_the_content_decides_what_a_file_is(tmp_path: Path, paint: Paint) -> None:
    paint(tmp_path / "x" / "a.png").rename(tmp_path / "x" / "a.jpg")

    assert source_of(tmp_path).records()[0].decode().shape == (1, 9, 6)


def test_unreadable_files_are_skipped_counted_and_listed(
    tmp_path: Path, paint: Paint, caplog: pytest.LogCaptureFixture
) -> None:
    paint(tmp_path / "x" / "good.png")
    (tmp_path / "x" / "empty.png").touch()
    (tmp_path / "x" / "text.png").write_text("I am no picture")
    whole = paint(tmp_path / "x" / "half.png", shape=(64, 64)).read_bytes()
    (tmp_path / "x" / "half.png").write_bytes(whole[: len(whole) // 2])

    images = open_images(
        Named(name="folder", knobs={"path": "x"}),
        folder=tmp_path,
        image_px=8,
        cache_dir=tmp_path / "cache",
    )

    assert len(images) == 1
    assert [name for name, _ in images.skipped] == ["empty.png", "half.png", "text.png"]
    assert images.skipped[0][1] == "file is empty"
    assert "skipped 3 of 4 images" in caplog.text
    assert "half.png" not in caplog.text


def test_the_fingerprint_changes_when_a_file_is_renamed(tmp_path: Path, paint: Paint) -> None:
    path = paint(tmp_path / "x" / "a.png")
    before = content_digest(source_of(tmp_path), 8, None)

    path.rename(tmp_path / "x" / "b.png")

    assert content_digest(source_of(tmp_path), 8, None) != before

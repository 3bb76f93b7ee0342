"""A file or a folder is whole or absent, whatever goes wrong on the way."""

from pathlib import Path

import pytest

from confrere_common.storage import atomic_folder, atomic_write, remove_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_written_file_holds_its_content_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "note.json"

    atomic_write(path, b"one")
    atomic_write(path, b"two")

    assert path.read_bytes() == b"two"
    assert names(path.parent) == ["note.json"]


def test_a_file_that_cannot_be_replaced_leaves_nothing_half_written(tmp_path: Path) -> None:
    (tmp_path / "note.json").mkdir()

    with pytest.raises(OSError, match="Is a directory"):
        atomic_write(tmp_path / "note.json", b"new")

    assert names(tmp_path) == ["note.json"]


@pytest.mark.parametrize("durable", [True, False])
def test_a_folder_replaces_the_one_before_it(tmp_path: Path, durable: bool) -> None:
    folder = tmp_path / "round-0001"

    atomic_folder(folder, lambda part: (part / "old").touch(), durable=durable)
    atomic_folder(folder, lambda part: (part / "new").touch(), durable=durable)

    assert names(folder) == ["new"]
    assert names(tmp_path) == ["round-0001"]


def test_a_folder_that_fails_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "round-0001"
    atomic_folder(folder, lambda part: (part / "old").touch())

    def fill(part: Path) -> None:
        (part / "new").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        atomic_folder(folder, fill)

    assert names(folder) == ["old"]
    assert names(tmp_path) == ["round-0001"]


def test_an_interruption_leaves_nothing_half_written(tmp_path: Path) -> None:
    def fill(part: Path) -> None:
        (part / "new").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_folder(tmp_path / "round-0001", fill)

    assert names(tmp_path) == []


def test_removing_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    remove_folder(tmp_path / "none")

    assert names(tmp_path) == []

"""The folder of a study is begun once, taken up when asked, and never mixed with another."""

import json
from pathlib import Path

import pytest

from confrere_common.errors import CheckpointError, ConfigError
from confrere_deploy.study.outbox import STUDY, open_folder

HERS = {"run": "a" * 64, "images": "b" * 64, "name": "hers"}


def test_a_new_folder_becomes_the_study_s(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"

    open_folder(out, HERS, resume=False)

    assert json.loads((out / STUDY).read_bytes()) == HERS


def test_an_empty_folder_is_as_good_as_none(tmp_path: Path) -> None:
    open_folder(tmp_path, HERS, resume=False)

    assert (tmp_path / STUDY).exists()


def test_resuming_what_was_never_begun_begins_it(tmp_path: Path) -> None:
    open_folder(tmp_path / "out", HERS, resume=True)

    assert (tmp_path / "out" / STUDY).exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()

    for resume in (True, False):
        with pytest.raises(ConfigError, match="holds other files: give --out a new folder"):
            open_folder(tmp_path, HERS, resume=resume)

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_study_is_taken_up_only_when_asked(tmp_path: Path) -> None:
    open_folder(tmp_path, HERS, resume=False)

    with pytest.raises(ConfigError, match="add --resume to go on with it"):
        open_folder(tmp_path, HERS, resume=False)

    open_folder(tmp_path, HERS, resume=True)


def test_another_study_is_refused_and_the_note_stands(tmp_path: Path) -> None:
    open_folder(tmp_path, HERS, resume=False)
    his = {**HERS, "run": "c" * 64, "images": "d" * 64}

    with pytest.raises(CheckpointError, match="another study: run and images differ"):
        open_folder(tmp_path, his, resume=True)

    assert json.loads((tmp_path / STUDY).read_bytes()) == HERS


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"3", b"null", b"\xff"])
def test_a_note_that_cannot_be_read_is_told_as_such(tmp_path: Path, content: bytes) -> None:
    (tmp_path / STUDY).write_bytes(content)

    with pytest.raises(CheckpointError, match=r"study\.json cannot be read"):
        open_folder(tmp_path, HERS, resume=True)


def test_a_file_cannot_be_the_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"mine")

    for out in (tmp_path / "out", tmp_path / "out" / "deeper"):
        with pytest.raises(ConfigError, match=r"cannot be used: (Not a directory|File exists)"):
            open_folder(out, HERS, resume=False)

    assert (tmp_path / "out").read_bytes() == b"mine"

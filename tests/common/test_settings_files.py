"""YAML files of settings are read with every fault at once, and nothing in them is guessed."""

from pathlib import Path

import pytest

from confrere_common.errors import ConfigError
from confrere_common.section import section
from confrere_common.settings import check_settings, read_mapping


@section
class Inner:
    """What stands in a list."""

    depth: int = 1
    """How deep."""


@section
class Outer:
    """What stands at the top."""

    width: int = 1
    """How wide."""

    inner: tuple[Inner, ...] | None = None
    """What is in it."""


def faults_of(folder: Path, text: str | bytes) -> tuple[str, ...]:
    path = folder / "file.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as told:
        check_settings(read_mapping(path), Outer, path.name)
    assert str(folder) not in str(told.value)
    return told.value.faults


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_text("# nothing yet\n")

    assert read_mapping(tmp_path / "file.yaml") == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a", "not a mapping"),
        ("just words", "not a mapping"),
        ("a: [", "is not YAML"),
        ("a: !!python/object/apply:os.system [ls]", "is not YAML"),
        (b"a: \xff", "is not YAML"),
        ("a: 2026-99-99", "is not YAML"),
        ("? [a, b]\n: 1\n? [a, b]\n: 2", "is not YAML"),
    ],
)
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert said in faults_of(tmp_path, text)[0]


def test_a_key_that_stands_twice_is_a_fault(tmp_path: Path) -> None:
    assert "the key 'width' stands twice" in faults_of(tmp_path, "width: 5\nwidth: 1\n")[0]


def test_all_faults_are_told_at_once_with_guesses_from_where_they_stand(tmp_path: Path) -> None:
    text = "widht: 1\nwidth: many\ninner: [{depht: 2}, {depth: 3}]\n"

    faults = " ".join(faults_of(tmp_path, text))

    assert "unknown key 'widht': did you mean 'width'?" in faults
    assert "width is 'many'" in faults
    assert "inner.0: unknown key 'depht': did you mean 'depth'?" in faults


def test_a_file_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"policy\.yaml has 1 fault") as told:
        read_mapping(tmp_path / "SMITH^JOHN" / "policy.yaml")
    assert "SMITH" not in str(told.value)

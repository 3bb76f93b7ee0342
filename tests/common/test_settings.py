from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from confrere_common.errors import ConfigError
from confrere_common.section import section
from confrere_common.settings import check_settings, read_settings, written


@section
class Sample:
    """Of settings."""

    name: str
    """What it is called."""

    count: Annotated[int, Field(gt=0)] = 3
    """How many there are,
    in all."""


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(written(Sample(name="Größe: #1", count=4)))

    assert read_settings(tmp_path / "a.yaml", Sample) == Sample(name="Größe: #1", count=4)


def test_each_key_stands_under_its_documentation() -> None:
    expected = "# What it is called.\nname: a\n\n# How many there are,\n# in all.\ncount: 3\n"

    assert written(Sample(name="a")) == expected


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        check_settings({"count": 0, "cuont": 1}, Sample, "a.yaml")

    said = str(caught.value)
    assert "a.yaml has 3 faults" in said
    assert "name is missing" in said
    assert "did you mean 'count'?" in said
    assert "greater than 0" in said


@pytest.mark.parametrize("text", ["[1]", "", "a: [", "a: 2026-99-99", "\x00"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)

    with pytest.raises(ConfigError, match=r"YAML|mapping"):
        read_settings(tmp_path / "a.yaml", Sample)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.yaml.*\n.*cannot be read"):
        read_settings(tmp_path / "none.yaml", Sample)

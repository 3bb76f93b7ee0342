"""A federated run asks for a registered name; the site alone knows what is behind it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from confrere_client.hospital.registry import add
from confrere_client.source import open_source
from confrere_common.errors import ConfigError, DataError
from confrere_common.family import Named

Paint = Callable[..., Path]


@pytest.fixture
def site(tmp_path: Path, paint: Paint) -> Path:
    for name in ("ct", "derm"):
        paint(tmp_path / name / f"{name}.png")
        add(tmp_path / "site", name, tmp_path / name)
    return tmp_path / "site"


def names(folder: Path, **knobs: str) -> list[str]:
    source = open_source(Named(name="site", knobs=knobs), folder)
    return [record.name for record in source.records()]


def test_a_registered_data_set_is_found_by_its_name(site: Path) -> None:
    assert names(site, dataset="derm") == ["derm.png"]


def test_a_name_may_be_left_out_of_a_single_one_only(site: Path, tmp_path: Path) -> None:
    add(tmp_path / "other", "ct", tmp_path / "ct")

    assert names(tmp_path / "other") == ["ct.png"]
    with pytest.raises(DataError, match="there are several: ct, derm"):
        names(site)


def test_no_other_data_set_and_no_path_can_be_asked_for(site: Path) -> None:
    with pytest.raises(DataError, match="unknown data set 'drm': did you mean 'derm'"):
        names(site, dataset="drm")
    with pytest.raises(ConfigError, match=r"dataset is '\.\./ct'"):
        names(site, dataset="../ct")
    with pytest.raises(ConfigError, match="unknown key 'path'"):
        names(site, path="/etc")

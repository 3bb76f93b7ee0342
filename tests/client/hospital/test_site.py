from pathlib import Path

import pytest
import yaml

from confrere_client.hospital.site import open_site
from confrere_common.errors import ConfigError

PLAIN = {"study": "eyes", "site": "north", "address": "fl.example.org:8443"}


def test_a_folder_that_has_not_joined_is_told_how(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="confrere client join"):
        open_site(tmp_path)


def test_site_yaml_tells_all_its_faults_at_once(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(yaml.safe_dump({**PLAIN, "site": "N", "adress": "h:1"}))

    with pytest.raises(ConfigError) as caught:
        open_site(tmp_path)

    assert "did you mean 'address'?" in str(caught.value)
    assert "site is 'N'" in str(caught.value)


def test_missing_keys_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(PLAIN))
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "site.key").touch()

    with pytest.raises(ConfigError) as caught:
        open_site(tmp_path)

    assert "6 faults" in str(caught.value)
    assert "keys/node.key is missing" in str(caught.value)

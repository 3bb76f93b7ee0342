"""The digest by which a site knows the code of a run, and the bundle that holds none."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from confrere_common import code
from confrere_common.code import PACKAGES, bundle, bundle_digest, code_digest


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a copy of the installation that may be changed."""
    for package in PACKAGES:
        shutil.copytree(code._folder(package), tmp_path / package)
    monkeypatch.setattr(code, "_folder", lambda package: tmp_path / package)
    code_digest.cache_clear()
    yield tmp_path
    code_digest.cache_clear()


def digest_now() -> str:
    code_digest.cache_clear()
    return code_digest()


def test_an_equal_installation_elsewhere_has_the_same_digest(installed: Path) -> None:
    copied = digest_now()
    (installed / "confrere_client" / "__pycache__").mkdir(exist_ok=True)
    (installed / "confrere_client" / "__pycache__" / "x.pyc").write_bytes(b"compiled")
    (installed / "confrere_client" / "notes.txt").write_text("no code")

    assert digest_now() == copied
    assert len(copied) == 64


def test_the_digest_is_that_of_what_is_installed_here() -> None:
    first = digest_now()

    assert digest_now() == first


@pytest.mark.parametrize("package", PACKAGES)
def test_any_change_of_the_code_is_another_digest(installed: Path, package: str) -> None:
    before = digest_now()
    path = installed / package / "__init__.py"
    original = path.read_bytes()
    seen = {before}

    path.write_bytes(original + b"\n# a comment\n")
    seen.add(digest_now())
    path.write_bytes(original)
    (installed / package / "extra.py").write_text("")
    seen.add(digest_now())
    (installed / package / "extra.py").rename(installed / package / "other.py")
    seen.add(digest_now())
    (installed / package / "other.py").unlink()

    assert len(seen) == 4
    assert digest_now() == before


def test_the_bundle_is_a_line_and_no_code() -> None:
    assert bundle() == f"confrere {code_digest()}\n".encode()
    assert bundle_digest() == hashlib.sha256(bundle()).hexdigest()


def test_a_package_that_is_not_installed_is_told() -> None:
    with pytest.raises(ModuleNotFoundError, match="confrere_nowhere"):
        code._folder("confrere_nowhere")

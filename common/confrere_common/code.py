"""Which code would work on a hospital's images, as one digest: no code is ever sent.

A run names the digest of the code that it was planned with; a site carries it out only when its own
installation has that very digest. What Flower calls an app bundle is therefore a single line.
"""

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("confrere_common", "confrere_client")
"""All that runs at a site, but for the libraries."""


@cache
def code_digest() -> str:
    """Return the SHA-256 over the installed sources that work at a site, as hexadecimal."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        root = _folder(package)
        for path in sorted(root.rglob("*.py")):
            name = f"{package}/{path.relative_to(root).as_posix()}"
            digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def bundle() -> bytes:
    """Return the app bundle of this installation: the name of its code, and no code."""
    return f"confrere {code_digest()}\n".encode()


def bundle_digest() -> str:
    """Return the digest under which Flower knows the bundle."""
    return hashlib.sha256(bundle()).hexdigest()


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(package)
    return Path(next(iter(spec.submodule_search_locations)))

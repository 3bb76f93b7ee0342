"""Check a release: who signed it, that every file is the one that was signed, and nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from confrere_common.errors import CheckpointError
from confrere_common.manifest import NAME, read_manifest, unlisted
from confrere_common.pki.keys import signing_public
from confrere_deploy.federation.fetching import BESIDE, COORDINATOR, verify_release
from confrere_server.runs.publish import RELEASE

EXPORTED = ("exporter.pub", "card.json")
"""What ``export`` alone writes: where it stands, there was a manifest."""


def verify(folder: Path, key: Path) -> str:
    """Return one line on what was checked, of an exported or of a fetched release.

    Guarantee: an exported release in which any file was altered, added or taken away since it was
    signed gives CheckpointError; *key* must come from the exporter by another way than the release.
    A fetched one with anything that is neither sealed nor fetched beside it does so as well.
    """
    if not (folder / NAME).exists():
        sealed = _nothing_else(folder, verify_release(folder, key))
        return f"{_fetched(sealed)} Its report, if there is one, is not under the seal."
    try:
        pem = key.read_bytes()
    except OSError as fault:
        raise CheckpointError(f"{fault.filename} cannot be read: {fault.strerror}.") from None
    said = read_manifest(folder, signing_public(pem)) or {}
    added = unlisted(folder, said)
    if added:
        raise CheckpointError(
            f"{folder} holds what nobody signed: {', '.join(added[:5])}. Take it out, or get the "
            "release again."
        )
    if RELEASE not in said["files"]:
        return _exported(said)
    sealed = verify_release(folder, folder / COORDINATOR)
    return f"{_exported(said)} Within it, the coordinator's seal is {_fetched(sealed)}"


def _nothing_else(folder: Path, said: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return *said*; CheckpointError where the folder holds what the seal does not cover."""
    found = {path.name for path in folder.iterdir()}
    if found.intersection(EXPORTED):
        raise CheckpointError(
            f"{folder} was exported, and its {NAME} is missing: nobody vouches for its files. Get "
            "the release again."
        )
    added = sorted(found.difference(said["files"], BESIDE))
    if added:
        raise CheckpointError(
            f"{folder} holds what nobody sealed: {', '.join(added[:5])}. Take it out, or fetch it "
            "again."
        )
    return said


def _exported(said: Mapping[str, Any]) -> str:
    return (
        f"sound: release '{said['title']}' of {said['created']}, {len(said['files'])} files, "
        f"written by confrere {said['version']}."
    )


def _fetched(said: Mapping[str, Any]) -> str:
    return (
        f"sound: run {said['run']} of study '{said['study']}', {said['rounds']} rounds, "
        f"{len(said['sites'])} sites, code {said['code'][:16]}."
    )

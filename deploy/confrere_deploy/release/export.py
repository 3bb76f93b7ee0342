"""Make a release of a finished run: its encoder, card, other formats, and a signed manifest."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from confrere_common.errors import CheckpointError, ConfigError
from confrere_common.manifest import NAME, listed, signed_manifest
from confrere_common.network import must_be_named_by
from confrere_common.pki.keys import public_pem, read_signing_key, write_key
from confrere_common.release import DECODER, load_decoder, load_release
from confrere_common.storage import atomic_folder, atomic_write
from confrere_deploy.federation.fetching import (
    BESIDE,
    COORDINATOR,
    REPORT,
    sealed_names,
    verify_release,
)
from confrere_deploy.release.card import Files, card_of
from confrere_deploy.release.markdown import card_markdown
from confrere_deploy.release.portable import write_portable
from confrere_deploy.report.pooled import Evaluated, evaluated
from confrere_server.runs.judging import FILE as EVALUATION
from confrere_server.runs.publish import CARD, ENCODER, RELEASE, TRAINED


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What whoever exports may decide."""

    intended: str = ""
    """What the encoder is for; empty: research."""

    results: Mapping[str, Any] | None = None
    """Tables of figures that were measured after training."""

    formats: tuple[str, ...] = ()


def export(source: Path, out: Path, key: Ed25519PrivateKey, wishes: Wishes) -> Mapping[str, Any]:
    """Write the release of the run in *source* to the folder *out*; return its card.

    *source* is what ``confrere simulate`` wrote or ``confrere server fetch`` brought. An older
    release in *out* is replaced; any other folder, or one with more in it than the release, is not:
    ConfigError. CheckpointError where the run's own files do not fit each other or their seal.
    """
    _must_be_free(out)
    encoder, own = load_release(source / ENCODER)
    must_be_named_by(own, source)
    _, decoder = load_decoder(source / ENCODER)
    files = _files(source)
    kept = _kept(files.release, bool(decoder))
    card: dict[str, Any] = {}

    def fill(folder: Path) -> None:
        folder.chmod(0o755)  # it is to be given away
        for name in kept:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
        portable = write_portable(encoder, folder, wishes.formats)
        card.update(
            card_of(files, intended=wishes.intended, results=wishes.results, portable=portable)
        )
        _write_words(folder, card, key)

    atomic_folder(out, fill)
    return card


def _files(source: Path) -> Files:
    """Return what the run's files say; CheckpointError where they are not as they were sealed."""
    sealed = verify_release(source, source / COORDINATOR) if (source / RELEASE).exists() else {}
    report, *_ = REPORT
    return Files(
        encoder=_json(source / CARD),
        release=sealed,
        report=_json(source / report) if (source / report).exists() else {},
        # Not as the report has it: that is made by whoever fetches, and could say anything.
        evaluation=_evaluation(source) if EVALUATION in sealed.get("files", ()) else None,
    )


def _kept(sealed: Mapping[str, Any], decoder: bool) -> tuple[str, ...]:
    """Return what is taken over from a run's folder, where it is there: all that was sealed.

    Of a simulated run, which nobody sealed, it is what a training leaves and its report.
    """
    if sealed:
        return (*sealed_names(sealed), *BESIDE)
    return (*(name for name in TRAINED if decoder or name != DECODER), *REPORT)


def _evaluation(source: Path) -> Evaluated | None:
    try:
        return evaluated(json.loads((source / EVALUATION).read_bytes()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(
            f"{source / EVALUATION} is no evaluation that this version reads: export the run with "
            "the version of confrere that it was made with."
        ) from None


def _write_words(folder: Path, card: Mapping[str, Any], key: Ed25519PrivateKey) -> None:
    """Write card, provenance and public key, and last the manifest over all that stands there."""
    texts = {
        "card.json": json.dumps(card, indent=2, allow_nan=False),
        "card.md": card_markdown(card),
        "provenance.json": json.dumps(card["provenance"], indent=2, allow_nan=False),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "exporter.pub").write_bytes(public_pem(key.public_key()))
    facts = {
        "title": card["title"],
        "created": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "version": version("confrere"),
    }
    (folder / NAME).write_bytes(signed_manifest(folder, facts, key))


def signing_key(path: Path) -> tuple[Ed25519PrivateKey, bool]:
    """Return the Ed25519 key in *path* and whether it was made now, ``.pub`` beside it."""
    if path.exists():
        return read_signing_key(path), False
    key = Ed25519PrivateKey.generate()
    write_key(path, key)
    atomic_write(path.with_suffix(".pub"), public_pem(key.public_key()))
    return key, True


def results_in(path: Path) -> Mapping[str, Any]:
    """Return tables of figures; ConfigError unless each is {mean, low, high} of numbers."""
    tables = _json(path)
    try:
        figures = [figure for table in tables.values() for figure in table.values()]
        faulty = [f for f in figures if not float(f["low"]) <= float(f["mean"]) <= float(f["high"])]
    except (KeyError, TypeError, ValueError, AttributeError):
        faulty = [None]
    if faulty:
        example = (
            '{"derm, 10 % labels": {"auc": {"mean": 0.81, "low": 0.77, "high": 0.85, "n": 3}}}'
        )
        raise ConfigError([f"holds no tables of figures, such as {example}."], str(path))
    return tables


def _must_be_free(out: Path) -> None:
    """Refuse a folder with anything in it that is not of an older release: it would be lost."""
    if not out.exists():
        return
    try:
        own = {NAME, *listed(out)}
    except CheckpointError:
        fault = "exists and is no release: name a folder that is not there yet with --out."
        raise ConfigError([fault], str(out)) from None
    more = sorted(path.name for path in out.iterdir() if path.name not in own)
    if more:
        fault = f"holds more than a release ({', '.join(more[:5])}): name another with --out."
        raise ConfigError([fault], str(out))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except OSError as fault:
        raise ConfigError([f"cannot be read: {fault.strerror}."], str(path)) from None
    except (ValueError, RecursionError):
        raise ConfigError(["is no JSON: write it anew."], str(path)) from None
    if not isinstance(found, dict):
        raise ConfigError([f"holds a {type(found).__name__}, not a mapping."], str(path))
    return found

"""The model card: what an encoder is for, came from, reached and cannot, as JSON and Markdown.

It says only what the run's own files say; what they do not say stands as "not told". Its heads are
those of Mitchell et al. (https://doi.org/10.1145/3287560.3287596).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from confrere_deploy.release.scored import scored
from confrere_deploy.report.pooled import Evaluated

SCHEMA = 1
INTENDED = (
    "Research: features of medical images of the kind and from scanners like those named below, as "
    "the start of fine-tuning, probing or retrieval on data that one is allowed to use."
)
OUT_OF_SCOPE = (
    "Diagnosis, treatment or triage: this is no medical device and nobody has assessed it as one.",
    "Modalities, body parts, scanners or patient groups that are not named under data.",
    "Finding out who the patients were.",
)
NO_PRIVACY = (
    "Training was not differentially private: nothing bounds what the weights tell of one patient."
)
NO_RESULT = (
    "Nothing was measured on test patients of this run: evaluate the encoder on your own before "
    "anybody relies on it."
)
OF_THEIR_OWN = (
    "Its figures are of held-out patients of the sites that took part in it: of another hospital's "
    "patients they say little. Evaluate it on your own before anybody relies on it."
)
UNPREPARED = (
    "How the hospitals prepared their images is not told: the run demanded nothing of it "
    "(data.preparation), and sites do not say it."
)


@dataclass(frozen=True, kw_only=True)
class Files:
    """What a run's own files say, as plain values; empty where it has no such file."""

    encoder: Mapping[str, Any]
    """encoder.json"""

    release: Mapping[str, Any] = field(default_factory=dict)
    """release.json's sealed words, of a federation."""

    report: Mapping[str, Any] = field(default_factory=dict)
    """report.json"""

    evaluation: Evaluated | None = None
    """evaluation.json, of a federation whose sites scored what they trained."""


def card_of(
    files: Files,
    *,
    intended: str = "",
    results: Mapping[str, Any] | None = None,
    portable: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the card of a run from its files.

    *results* are tables of figures that were measured elsewhere, name -> measure -> {mean, low,
    high, n}.
    """
    encoder, release, report = files.encoder, files.release, files.report
    training: Mapping[str, Any] = {**encoder.get("training", {}), **release}
    run = report.get("run", {})
    arms = report.get("arms") or training.get("results") or {}
    tables = {**_tables(arms), **(results or {})}
    counted = scored(files.evaluation, report)
    privacy = training.get("privacy", run.get("privacy"))
    return {
        "schema": SCHEMA,
        "title": training.get("run") or report.get("name") or "encoder",
        "created": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "intended_use": intended or INTENDED,
        "out_of_scope": list(OUT_OF_SCOPE),
        "encoder": encoder["encoder"],
        "input": encoder["input"],
        "preprocessing": encoder["preprocessing"],
        "portable": dict(portable or {}),
        "data": _data(training, report, counted),
        "method": {
            "method": training.get("method"),
            "task": training.get("task") or report.get("task"),
            "rounds": training.get("rounds"),
            "best_round": training.get("best_round"),
            "seed": training.get("seed"),
            "federation": run.get("federation"),
        },
        "privacy": {
            "asked": privacy or "no differential privacy",
            "secure_aggregation": bool(
                training.get("secure_aggregation", run.get("secure_aggregation"))
            ),
            "spends": _spends(training, report),
            "authority": "each hospital's own ledger",
        },
        "floors": [name for name in tables if name in FLOORS],
        "results": tables,
        "scored_by_sites": counted,
        "limits": [
            *([UNPREPARED] if release and "prepared" not in encoder["preprocessing"] else ()),
            *_limits(privacy, tables, counted),
            *report.get("warnings", ()),
        ],
        "provenance": _provenance(training, report),
    }


FLOORS = ("raw", "random", "probe", "scratch", "local")
"""Arms that training together must beat to be worth it."""


def _data(
    training: Mapping[str, Any], report: Mapping[str, Any], counted: Mapping[str, Any]
) -> dict[str, Any]:
    sites: Sequence[Mapping[str, Any]] = report.get("sites") or training.get("sites") or ()
    # Where sites held patients out, the coordinator knows of none but counted images.
    tested = () if counted else ("test_patients",)
    kept = ("site", "images", "patients", "rounds", *tested)
    told = [{key: site[key] for key in kept if site.get(key) is not None} for site in sites]
    of = report.get("data", {})
    return {
        "modality": of.get("modality"),
        "classes": list(of.get("classes", ())),
        "images": sum(site.get("images", 0) for site in told),
        "test_images": counted["images"] if counted else of.get("test_images"),
        "test_patients": None if counted else of.get("test_patients"),
        "sites": told,
    }


def _spends(training: Mapping[str, Any], report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what the rounds cost each patient of a site, where a run was private."""
    told = (report.get("protection") or {}).get("sites") or [
        {"site": site.get("site"), "rounds": site.get("rounds"), **site["privacy"]}
        for site in training.get("sites") or ()
        if site.get("privacy")
    ]
    kept = ("site", "epsilon", "delta", "rounds")
    return [{key: site[key] for key in kept if key in site} for site in told]


def _tables(arms: Mapping[str, Any]) -> dict[str, Any]:
    """Return arm -> measure -> figure, of probes or of a fine-tuned task."""
    found = {}
    for name, arm in arms.items():
        figures = dict(arm.get("figures") or {})
        for probe in ("linear", "knn"):
            told = (arm.get(probe) or {}).items()
            figures |= {f"{probe} {measure}": figure for measure, figure in told if figure}
        if figures:
            found[name] = figures
    return found


def _limits(privacy: Any, tables: Mapping[str, Any], counted: Mapping[str, Any]) -> Iterator[str]:
    if privacy is None:
        yield NO_PRIVACY
    if counted:
        yield OF_THEIR_OWN
    elif not tables:
        yield NO_RESULT


def _provenance(training: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    parents = [training.get(key) for key in ("warm_start", "start", "start_decoder")]
    return {
        "study": training.get("study"),
        "run": training.get("run") or report.get("name"),
        "run_digest": training.get("digest") or report.get("digest"),
        "code": training.get("code"),
        "version": training.get("version") or report.get("version"),
        "trained": training.get("created") or report.get("created"),
        "parents": [parent for parent in parents if parent],
        "sites": [site.get("site") for site in training.get("sites") or ()],
        "audit_heads": training.get("heads", {}),
        "coordinator_head": training.get("server_head"),
    }

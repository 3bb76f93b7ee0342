"""What the sites of a federation counted of a model's scores, as its card has it: pooled figures.

A figure is {mean, low, high, images, sites}, as those of a test are, but low and high are bounds:
what joining small cells may hide, and no interval over patients. A Dice or P@5 that is too coarse
has no mean.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from confrere_deploy.report.pooled import (
    MEASURES,
    Evaluated,
    EvaluatedClass,
    EvaluatedQueries,
    EvaluatedStructure,
    is_coarse,
)

BOUNDS = (
    "Low and high are what joining small cells may hide, and no interval over patients. Each image "
    "counts once; the counts rest on the sites' word."
)
OWN_HEADS = "Each site scored the encoder with a head of its own, which is not in this release."

NOTES: Mapping[str, str] = {
    "classification": "AUC is of each class against the rest; the mean is over classes.",
    "segmentation": (
        "Dice is of images that have the structure; 'left alone' is the share of those without it "
        "in which nothing was marked."
    ),
    "detection": (
        "An image counts by the surest box of a class: whether it finds that there is something, "
        "not where."
    ),
    "anomaly": "The AUC of what is normal against the rest is the AUROC of anomalies.",
    "retrieval": (
        "P@5 is, of the five images nearest to a query, the share that is of its class; each site "
        "searches its own images."
    ),
}
"""Task -> what its figures are."""


def scored(found: Evaluated | None, report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the card says of an evaluation; its task and head are as report.json has them.

    Empty where no site told enough of any class.
    """
    if found is None or found.worth is None:
        return {}
    told = [site for site in found.sites if site.images]
    return {
        "round": found.round,
        "sites": len(told),
        "asked": len(found.sites),
        "images": sum(site.images for site in told),
        "smallest_cell": min((site.smallest for site in told), default=0),
        "pooled": dict(_pooled(found)),
        "classes": {name: figures for name, figures in _each(found) if figures},
        "notes": list(_notes(report)),
    }


def _pooled(found: Evaluated) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, name in MEASURES.items():
        worth = getattr(found, key)
        if worth is not None:
            yield name, _figure(worth, found.error, found.low, found.high)


def _each(found: Evaluated) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each class, or structure, with its figures."""
    for one in found.classes:
        yield one.name, {"AUC": _of_class(one)}
    for structure in found.structures:
        yield structure.name, dict(_of_structure(structure))
    for queries in found.queries:
        yield queries.name, {"P@5": _of_queries(queries)}


def _of_class(one: EvaluatedClass) -> dict[str, Any]:
    counts = {"images": one.positives, "others": one.negatives, "sites": len(one.sites)}
    return _figure(one.auc, one.error, None, None) | counts


def _of_structure(one: EvaluatedStructure) -> Iterator[tuple[str, dict[str, Any]]]:
    sites = {"sites": len(one.sites)}
    if one.dice is not None:
        figure = _figure(one.dice, one.error, one.low, one.high)
        yield "Dice", {**figure, "images": one.images, **sites}
    if one.alone is not None:
        figure = _figure(one.alone, one.alone_error, one.alone_low, one.alone_high)
        yield "left alone", {**figure, "images": one.without, **sites}


def _of_queries(one: EvaluatedQueries) -> dict[str, Any]:
    figure = _figure(one.precision, one.error, one.low, one.high)
    return {**figure, "images": one.images, "sites": len(one.sites)}


def _figure(
    worth: float, error: float | None, low: float | None, high: float | None
) -> dict[str, Any]:
    """Return a figure with its bounds; of one that has an error alone, that to both sides."""
    if low is not None and high is not None:
        known = {} if is_coarse(error) else {"mean": worth}
        return {**known, "low": low, "high": high}
    doubt = error or 0.0
    return {"mean": worth, "low": max(0.0, worth - doubt), "high": min(1.0, worth + doubt)}


def _notes(report: Mapping[str, Any]) -> Iterator[str]:
    note = NOTES.get(report.get("task", ""))
    if note:
        yield note
    if (report.get("run", {}).get("finetune") or {}).get("head") == "local":
        yield OWN_HEADS
    yield BOUNDS

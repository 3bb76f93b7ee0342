"""What to set in a run, from what sites told of their images: each sentence with its figures.

It is advice, not a finding: no rule here was fitted, and a trial on simulated sites tells more.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from confrere_common.describe import Describe, Description, Measure, measures_of
from confrere_server.description.sharing import NOTHING, Sharing
from confrere_server.description.unlikeness import (
    Gap,
    gaps,
    labelled,
    quantile,
    surely_apart,
    widest,
    width_at,
)

Told = Mapping[str, Description]

SIDES = {2: (32, 64, 96, 128, 160, 192, 224, 256, 320, 384, 512), 3: (32, 48, 64, 96, 128)}
"""Sides of an image that are trained on, by axes; larger ones cost much for a first run."""

LARGE_SHARE = 0.5
NAMED = 5
"""Pairs of sites that a sentence names."""

COARSE = 4
"""Cells of spacing that a site may have joined where its median counts for something."""

FEW = 100
"""Patients of a site below which its own part of a contrastive batch repeats soon."""

CURES: Mapping[str, str] = {
    "label": (
        "sites would learn classifiers of unlike classes. Pre-training needs no label; when "
        "fine-tuning, set finetune.task adjust and sampling, and report each site apart"
    ),
    "modality": "hold one run for each modality, with data sets of it alone",
    "vendor": "let augmentation change intensity widely, and look at the results of each site",
    "mean": "let augmentation change brightness, or prepare all with the same windows",
    "contrast": "let augmentation change contrast, or prepare all with the same windows",
    "bits": "prepare all alike",
    "channels": "set data.channels, so that all have as many",
    "longer_px": "data.image_px resizes all alike, so structures differ in size: use spacing",
    "shorter_share": "images are padded to a square: let augmentation crop",
    "spacing_mm": "prepare all with the same spacing",
    "slice_spacing_mm": "prepare all with the same spacing, or train on slices",
    "slices": "set data.dims, or train on slices: volumes and pictures do not mix",
    "images": "patients with many images weigh more: count steps, not epochs",
}
"""Measure -> what helps where sites differ by it."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One sentence of it."""

    subject: str
    text: str


def advise(told: Told, asked: Describe, sharing: Sharing = NOTHING) -> tuple[Advice, ...]:
    """Return what follows for a run; empty when no site told anything."""
    if not told:
        return ()
    measures = measures_of(asked)
    found = [gap for gap in widest(gaps(told, measures)).values() if gap.marked]
    return (
        *_image_size(told, measures),
        *_spacing(told, measures),
        *_sizes(told),
        *_prevalence(told, asked),
        *_unnamed(told, asked),
        *_shared(sharing),
        *_gaps(found, measures),
        *_rule(found),
    )


def _image_size(told: Told, measures: Mapping[str, Measure]) -> Iterator[Advice]:
    edges = measures["longer_px"].edges
    cell = quantile(told, "longer_px", 0.25, len(edges))
    if cell is None:
        return
    middle = quantile(told, "slices", 0.5, measures["slices"].size)
    sides = SIDES[3 if middle else 2]
    side = max((side for side in sides if side <= edges[cell]), default=sides[0])
    yield Advice(
        subject="data.image_px",
        text=f"Begin with {side}: about three quarters of the patients have images whose longer "
        f"side is {edges[cell]:g} pixels or more, so that few are enlarged.",
    )


def _spacing(told: Told, measures: Mapping[str, Measure]) -> Iterator[Advice]:
    edges = measures["spacing_mm"].edges
    found = {s: quantile({s: one}, "spacing_mm", 0.5, len(edges)) for s, one in told.items()}
    known = {
        site: edges[cell]
        for site, cell in found.items()
        if cell is not None and width_at(told[site].counts["spacing_mm"], cell) <= COARSE
    }
    if not known:
        yield Advice(
            subject="spacing",
            text="No site tells of it closely; where files bear it, client prepare keeps it.",
        )
        return
    fine, coarse = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    if known[coarse] <= 1.5 * known[fine]:
        said = f"The medians of {len(known)} sites are alike, {known[fine]:g} mm or more: leave it."
    else:
        said = (
            f"The median is {known[fine]:g} mm or more at '{fine}' and {known[coarse]:g} mm or "
            f"more at '{coarse}': prepare all with one --spacing-mm, about the coarser of these."
        )
    yield Advice(subject="spacing", text=said)


def _sizes(told: Told) -> Iterator[Advice]:
    patients = {site: one.patients for site, one in told.items()}
    total, largest = sum(patients.values()), max(patients, key=patients.__getitem__)
    share = patients[largest] / total
    even = total**2 / sum(count**2 for count in patients.values())
    yield Advice(
        subject="sites",
        text=f"{len(told)} sites have {total:,} patients, as many as {even:.1f} sites of one size; "
        f"the largest, '{largest}', has {share:.0%} of them.",
    )
    if share > max(LARGE_SHARE, 1.5 / len(told)):
        yield Advice(
            subject="federation.limits.weight_share",
            text=f"'{largest}' would outweigh all others together with {share:.0%}; the limit cuts "
            "its weight, and step counts that are equal for all (train.steps_per_round) keep small "
            "sites in step.",
        )
    few = [site for site, count in sorted(patients.items()) if count < FEW]
    if few:
        names = ", ".join(f"'{site}' ({patients[site]})" for site in few)
        yield Advice(
            subject="train.batch",
            text=f"Fewer than {FEW} patients: {names}. Keep batch well below the smallest number, "
            "and prefer a method without negatives (byol, mae, simmim) to simclr there.",
        )


def _prevalence(told: Told, asked: Describe) -> Iterator[Advice]:
    for cell, label in enumerate(asked.labels):
        counts = {site: (mine, every) for site, mine, every in labelled(told, cell)}
        found = {site: mine / every for site, (mine, every) in counts.items()}
        if len(found) < 2:
            continue
        rare, common = min(found, key=found.__getitem__), max(found, key=found.__getitem__)
        ratio = found[common] / found[rare]
        if ratio >= 2 and surely_apart(counts[rare], counts[common]):
            yield Advice(
                subject=f"label {label}",
                text=f"{found[common]:.0%} of the labelled patients of '{common}' have it and "
                f"{found[rare]:.0%} of those of '{rare}': {ratio:.1f} times as many.",
            )


def _unnamed(told: Told, asked: Describe) -> Iterator[Advice]:
    """Yield where most labels have another name than those that the run asks for."""
    for site, one in sorted(told.items()) if asked.labels else ():
        every = sum(count for _, _, count in one.counts["label"].cells)
        named = sum(n for first, _, n in one.counts["label"].cells if first < len(asked.labels))
        if every and named < every / 2:
            yield Advice(
                subject="describe.labels",
                text=f"{named} of {every} labelled patients of '{site}' have a label that is asked "
                "for: agree with the site on what labels are called.",
            )


def _shared(sharing: Sharing) -> Iterator[Advice]:
    """Yield what follows of images that several sites have; nothing where none were compared."""
    most = sorted((p for p in sharing.pairs if p.images), key=lambda p: -p.images)
    if most:
        worst = ", ".join(f"'{p.one}' and '{p.two}' {p.sentence}" for p in most[:NAMED])
        left = f", and {len(most) - NAMED} more pairs" if len(most) > NAMED else ""
        yield Advice(
            subject="shared images",
            text=f"Equal images lie at {worst}{left}. Beware of test leakage: sites hold out "
            "patients each on its own, so what one tests on another may have trained on, and every "
            "score is then too good. Let one site of each pair leave these images out (the sites "
            "must agree on them), or measure only at a site, or on a set, that shares none.",
        )
    elif sharing.pairs:
        least = max(pair.least for pair in sharing.pairs)
        yield Advice(
            subject="shared images",
            text=f"No two of {len(sharing.sites)} sites share {least} equal images or more. Copies "
            "that were resized, cropped or compressed anew are not found, nor are other images of "
            "the same patient.",
        )


def _gaps(found: list[Gap], measures: Mapping[str, Measure]) -> Iterator[Advice]:
    for gap in found:
        yield Advice(
            subject=measures[gap.measure].title,
            text=f"'{gap.one}' and '{gap.two}' are {gap.distance:.2f} apart on a scale of 0 to 1 "
            f"(by chance: {gap.chance:.2f}): {CURES[gap.measure]}.",
        )


def _measures(count: int) -> str:
    return "1 measure sets" if count == 1 else f"{count} measures set"


def _rule(found: list[Gap]) -> Iterator[Advice]:
    if not found:
        said = "No measure sets sites far apart: 'mean' will do."
    else:
        said = (
            f"{_measures(len(found))} sites far apart: their updates may pull apart, the more "
            "the longer they train alone. By a rule of thumb that we did not measure, train about "
            "one epoch a round; hold 'ldawa_norm' against 'mean' in a simulation before the "
            "federation begins."
        )
    yield Advice(subject="federation.rule", text=said)

"""From results to what a study leaves behind: report, encoder and a short table."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from confrere_common.config import Run
from confrere_common.loading import as_dict, digest, dump
from confrere_common.model import decoder_weights, input_of, preprocessing_of, whole_encoder
from confrere_common.release import Card, save_release
from confrere_common.storage import atomic_write
from confrere_deploy.families import ALL_FAMILIES
from confrere_deploy.report import schema
from confrere_deploy.report.write import write_report
from confrere_deploy.split import owns
from confrere_deploy.study.cost import Clock
from confrere_deploy.study.history import alarm_warnings, record_warnings, rounds_told
from confrere_deploy.study.joining import of_encoders
from confrere_deploy.study.machine import machine
from confrere_deploy.study.measure import (
    LEAST_PATIENTS,
    Exam,
    Features,
    Scores,
    arm_figures,
    difference,
    patients_by_site,
)
from confrere_deploy.study.protection import protection, rounds_of, simulated_terms
from confrere_deploy.study.showing import pictures
from confrere_server.store import ServerState


@dataclass(frozen=True, kw_only=True)
class Results:
    """All that a study found."""

    run: Run
    exam: Exam
    sites: Mapping[str, NDArray[np.int64]]
    scores: Mapping[str, Sequence[Scores]]
    """Arm -> what each seed scored."""

    states: Mapping[int, ServerState]
    """Seed -> the federation's last state."""

    shown: Features
    """Every image's features under the first seed's encoder."""

    failed: tuple[str, ...] = ()
    """Why an arm is missing, a sentence each."""

    clock: Clock = field(default_factory=Clock)
    command: str | None = None


def summarise(results: Results, out: Path, console: Console) -> schema.Report:
    """Write report and encoder into *out*, print a short table, and return the report."""
    report = report_of(results)
    write_report(out, report, pictures(results.run, results.exam, results.sites, results.shown))
    write_skipped(out / "skipped.csv", results.exam.images.skipped)
    run, weights = results.run, results.states[results.run.seeds[0]].weights
    way_up = decoder_weights(run, weights)
    save_release(
        out / "encoder.safetensors", whole_encoder(run, weights), _card(results, report), way_up
    )
    console.print(_table(report))
    for warning in report.warnings:
        console.print(f"warning: {warning}", markup=False, style="yellow", soft_wrap=True)
    console.print(f"report: {out / 'report.html'}", markup=False, soft_wrap=True)
    console.print(f"encoder: {out / 'encoder.safetensors'}", markup=False, soft_wrap=True)
    return report


def write_skipped(path: Path, skipped: Sequence[tuple[str, str]]) -> None:
    """List what could not be read, for whoever runs the study; no list when all could."""
    if skipped:
        text = io.StringIO()
        csv.writer(text).writerows([("image", "reason"), *skipped])
        atomic_write(path, text.getvalue().encode())


def report_of(results: Results) -> schema.Report:
    """Return report.json's content."""
    run, exam = results.run, results.exam
    plain = as_dict(run, ALL_FAMILIES)
    figures = {
        name: arm_figures(exam, seeds, own=tuple(results.sites) if name == "local" else ())
        for name, seeds in results.scores.items()
    }
    rounds = rounds_told(results.states, features=results.shown.shape[1])
    return schema.Report(
        name=run.name,
        created=datetime.now(UTC),
        version=version("confrere"),
        run=plain,
        digest=digest(dump(run, ALL_FAMILIES)),
        seeds=run.seeds,
        sites=_sites(results),
        arms=figures,  # type: ignore[arg-type]
        differences=_differences(results),
        joining=_joining(results),
        site_tests=_site_tests(results, figures.values()),
        rounds=rounds,
        cost=_cost(results),
        protection=_protection(results),
        warnings=tuple(_warnings(results, rounds)),
        skipped=_skipped(results),
        data=_data(results),
        machine=machine(run.train.device),
        command=results.command,
    )


def _protection(results: Results) -> schema.Protection:
    """Return what was promised in each repetition: the same, by as many rounds as the first had."""
    patients = results.exam.images.catalog.patients
    counts = {site: len(np.unique(patients[rows])) for site, rows in results.sites.items()}
    first = next(iter(results.states.values()), None)
    rounds = rounds_of(first.records) if first is not None else {}
    return protection(results.run, simulated_terms(results.run, counts), rounds)


def _sites(results: Results) -> tuple[schema.Site, ...]:
    patients = results.exam.images.catalog.patients
    tested = patients_by_site(results.exam)
    return tuple(
        schema.Site(
            site=site,
            images=len(rows),
            patients=len(np.unique(patients[rows])),
            test_patients=tested.get(site, 0),
        )
        for site, rows in results.sites.items()
    )


def _site_tests(results: Results, arms: Iterable[schema.Arm]) -> str | None:
    """Say how test patients came to count for a site; None where no site has a figure."""
    if not any(arm.sites for arm in arms):
        return None
    if owns(results.exam.images.catalog, results.sites):
        return "A site's test patients are those whom the data name as its own."
    return (
        "The data name no such sites. Test patients were dealt out to them at random, each class "
        "in proportion to the patients of it that a site trains on."
    )


def _differences(results: Results) -> dict[str, schema.Figure] | None:
    ours = results.scores["federated"]
    if not results.exam.labelled:
        return None
    found = {
        f"federated-{name}": difference(results.exam, ours, theirs)
        for name, theirs in results.scores.items()
        if name != "federated"
    }
    return {name: figure for name, figure in found.items() if figure is not None}


def _joining(results: Results) -> schema.Joining | None:
    scores = results.scores
    if "local" not in scores:
        return None
    return of_encoders(results.exam, scores["federated"], scores["local"], tuple(results.sites))


def _cost(results: Results) -> schema.Cost:
    records = [record for state in results.states.values() for record in state.records]
    seen = sum(site.metrics.get("seen", 0.0) for r in records for site in r.sites)
    seconds = sum(record.seconds for record in records)
    spent = results.clock.total
    return schema.Cost(
        wall_s=spent.wall_s,
        cpu_s=spent.cpu_s,
        peak_rss_mib=spent.peak_rss_mib,
        bytes_up=sum(record.bytes_up for record in records),
        bytes_down=sum(record.bytes_down for record in records),
        images_per_s=seen / seconds if seconds else 0.0,
        sessions=len(results.clock.earlier) + 1,
    )


def _warnings(results: Results, rounds: Sequence[schema.Round]) -> Iterator[str]:
    yield from results.failed
    yield from results.clock.doubts
    if results.exam.images.skipped:
        yield f"{len(results.exam.images.skipped)} images could not be read and were left out."
    catalog = results.exam.images.catalog
    if catalog.patient_count == len(catalog):
        yield (
            "Every image counts as a patient of its own: if some show the same patient, the test "
            "is on known patients. Give a patient column to rule it out."
        )
    if not results.exam.labelled:
        yield "The images have no labels to test with: nothing says how good the encoder is."
    if len(results.run.seeds) < 3:
        yield (
            f"{len(results.run.seeds)} of the 3 repetitions that a claim needs: the intervals show "
            "little of how a result varies with the seed."
        )
    yield from _untold(results)
    yield from alarm_warnings(rounds)
    for seed, state in results.states.items():
        yield from record_warnings(seed, state.records)


def _untold(results: Results) -> Iterator[str]:
    """Yield which sites that were left out have too few test patients for a figure."""
    exam = results.exam
    sites = exam.images.catalog.sites[exam.unseen]
    for site in results.run.data.leave_out:
        count = len(np.unique(exam.unseen_truth.patients[sites == site]))
        if exam.labelled and count < LEAST_PATIENTS:
            yield (
                f"Nothing is told of '{site}', which was left out: it has {count} of the "
                f"{LEAST_PATIENTS} test patients that a figure needs."
            )


def _skipped(results: Results) -> schema.Skipped:
    reasons = Counter(reason for _, reason in results.exam.images.skipped)
    return schema.Skipped(count=sum(reasons.values()), reasons=dict(reasons))


def _data(results: Results) -> schema.Data:
    images, test = results.exam.images, results.exam.holdout.test
    rows = np.concatenate(list(results.sites.values()))
    patients = images.catalog.patients
    return schema.Data(
        images=len(rows),
        patients=len(np.unique(patients[rows])),
        classes=images.catalog.classes,
        channels=images.channels,
        size=images.sides,
        modality=results.run.augment.modality,
        test_images=len(test),
        test_patients=len(np.unique(patients[test])),
        preparation=None if images.preparation is None else dict(images.preparation),
    )


def _card(results: Results, report: schema.Report) -> Card:
    from confrere_deploy.report.codec import plain

    run = results.run
    channels, size = input_of(run)
    written = plain(report)
    return Card(
        encoder=run.encoder,
        channels=channels,
        size=size,
        preprocessing=preprocessing_of(run, results.exam.images.preparation),
        training={
            "digest": report.digest,
            "seed": run.seeds[0],
            "method": run.method.as_dict(),
            "rounds": sum(not r.void for r in results.states[run.seeds[0]].records),
            "sites": written["sites"],
            "results": written["arms"],
            "floors": run.floors,
            "version": report.version,
            "created": written["created"],
            **({"left_out": list(run.data.leave_out)} if run.data.leave_out else {}),
        },
    )


def _table(report: schema.Report) -> Table:
    table = Table(title=f"'{report.name}': test patients, {len(report.seeds)} seed(s)")
    for heading in ("arm", "linear AUC", "balanced accuracy", "kNN accuracy", "RankMe"):
        table.add_column(heading, justify="left" if heading == "arm" else "right")
    for name, arm in report.arms.items():
        linear, knn = arm.linear, arm.knn
        table.add_row(
            name,
            _told(linear.auc if linear else None),
            _told(linear.balanced_accuracy if linear else None),
            _told(knn.accuracy if knn else None),
            "" if arm.rankme is None else f"{arm.rankme.mean:.1f}",
        )
    return table


def _told(figure: schema.Figure | None) -> str:
    if figure is None:
        return "-"
    return f"{figure.mean:.3f} [{figure.low:.3f}, {figure.high:.3f}]"

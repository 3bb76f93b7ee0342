"""Carries out an evaluation from run file to report: ``confrere evaluate``; nothing leaves."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from confrere_client.data.cache import default_cache_dir
from confrere_client.data.images import Images, open_images
from confrere_client.device import choose_device
from confrere_client.evaluation.corruptions import SEVERITIES
from confrere_client.evaluation.factors import groups_of
from confrere_client.finetune.judge import Judge, judge_of
from confrere_client.finetune.pictures.gallery import Gallery, galleries
from confrere_common.errors import ConfigError, ConfrereError
from confrere_common.loading import as_dict, digest, dump
from confrere_deploy.evaluation import confidence, figures, parts, schema
from confrere_deploy.evaluation.cells import Cell, Finished, Workshop, exam
from confrere_deploy.evaluation.contestants import Contestant
from confrere_deploy.evaluation.page import write, write_pictures
from confrere_deploy.evaluation.parts import Entry, key
from confrere_deploy.evaluation.wishes import Wishes
from confrere_deploy.evaluation.worse import Bench, names_of, summed_up
from confrere_deploy.families import ALL_FAMILIES
from confrere_deploy.report import schema as shared
from confrere_deploy.study.cost import Clock
from confrere_deploy.study.finetuning import say_notes
from confrere_deploy.study.machine import machine
from confrere_deploy.study.options import Options
from confrere_deploy.study.outbox import STUDY, open_folder
from confrere_deploy.study.progress import Display
from confrere_deploy.study.summary import write_skipped

REPETITIONS = 3
"""Seeds that a claim needs."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All that is settled before the first training begins."""

    entries: Sequence[Entry]
    wishes: Wishes
    options: Options
    judge: Judge
    factors: Mapping[str, NDArray[np.str_]]

    @property
    def first(self) -> Entry:
        """Return the arm that says what all have in common: images, test, run."""
        return self.entries[0]


def carry_out(
    contestants: Sequence[Contestant], wishes: Wishes, options: Options, console: Console
) -> schema.EvaluationReport:
    """Train and judge every cell that is not yet finished, and leave report and pictures behind."""
    clock = Clock()
    evaluation = _settled(contestants, wishes, options, console)
    cells = _distinct(parts.cells_of(evaluation.entries, wishes))
    begun = (options.out / STUDY).exists()
    open_folder(options.out, _study(evaluation), resume=options.resume)
    clock.keep(options.out, resumed=begun)
    console.print(f"report: {options.out / 'report.html'}", markup=False, soft_wrap=True)
    with clock, Display(console, sum(cell.rounds for cell in cells)) as display:
        workshop = Workshop(out=options.out, judge=evaluation.judge, display=display, clock=clock)
        _say_plan(evaluation, cells, workshop, console)
        done: defaultdict[str, list[Finished]] = defaultdict(list)
        for cell in cells:
            done[key(cell.arm, cell.part)].append(workshop.finished(cell))
        report = _reported(evaluation, workshop, done, clock)
    write(options.out, report)
    write_skipped(options.out / "skipped.csv", evaluation.first.lecture.images.skipped)
    _say(report, options.out, console)
    return report


def _settled(
    contestants: Sequence[Contestant], wishes: Wishes, options: Options, console: Console
) -> Evaluation:
    """Return the evaluation; ConfigError with the faults of all arms and parts at once."""
    run = contestants[0].run
    faults = list(_refused(contestants))
    if faults:
        raise ConfigError(faults)
    choose_device(run.train.device)
    images = _open(contestants[0], options.folder, console)
    entries = []
    for contestant in contestants:
        try:
            entries.append(parts.entry(contestant, images))
        except ConfigError as fault:
            faults += [f"{contestant.name}: {one}" for one in fault.faults]
    if entries:
        faults += list(_impossible(entries[0], wishes))
    if faults:
        raise ConfigError(dict.fromkeys(faults))
    names = [str(name) for name in images.catalog.names]
    return Evaluation(
        entries=entries,
        wishes=wishes,
        options=options,
        judge=judge_of(entries[0].lecture.run),
        factors=groups_of(run.data.source, options.folder, names),
    )


def _refused(contestants: Sequence[Contestant]) -> Iterator[str]:
    run = contestants[0].run
    for promise in ("privacy", "secure_aggregation"):
        if getattr(run, promise) is not None:
            yield f"evaluate trains in one place and sends nothing: leave out {promise}"


def _impossible(one: Entry, wishes: Wishes) -> Iterator[str]:
    if wishes.robustness:
        try:
            names_of(one.lecture)
        except ConfrereError as fault:
            yield f"--robustness: augment.modality: {fault}"
    if wishes.leave_one_site_out and len(parts.unseen_sites(one.lecture)) < 2:
        yield (
            "--leave-one-site-out: fewer than two sites have images to learn from and 5 test "
            "patients: give a site column, or leave it out"
        )


def _open(contestant: Contestant, folder: Path, console: Console) -> Images:
    data = contestant.run.data
    with console.status("reading images") as status:
        return open_images(
            data.source,
            folder=folder,
            image_px=data.image_px,
            channels=data.channels,
            cache_dir=default_cache_dir(),
            progress=lambda done, total: status.update(f"reading images: {done} of {total}"),
        )


def _study(evaluation: Evaluation) -> dict[str, str]:
    """Return what a folder of this evaluation is known by; parts and encoders may be added."""
    images = evaluation.first.lecture.images.digest
    run = evaluation.first.contestant.run
    return {"name": run.name, "kind": "evaluate", "images": images, "confrere": version("confrere")}


def _distinct(cells: Iterator[Cell]) -> list[Cell]:
    return list({cell.name: cell for cell in cells}.values())


def _say_plan(
    evaluation: Evaluation, cells: Sequence[Cell], workshop: Workshop, console: Console
) -> None:
    one, wishes = evaluation.first, evaluation.wishes
    finished = sum(workshop.kept(cell) is not None for cell in cells)
    table = Table(title=f"Plan of '{one.lecture.run.name}'", show_header=False)
    table.title_justify = "left"
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("arms", "; ".join(entry.name for entry in evaluation.entries))
    table.add_row("images", f"{len(one.lecture.learned)} to learn from, {len(one.lecture.val)} for "
                  f"validation, {len(one.lecture.test)} of other patients to test")  # fmt: skip
    if wishes.curve:
        table.add_row("labels", ", ".join(map(str, wishes.curve)))
    if wishes.leave_one_site_out:
        table.add_row("sites left out", ", ".join(parts.unseen_sites(one.lecture)))
    if wishes.robustness:
        names = names_of(one.lecture)
        table.add_row("corruptions", f"{', '.join(names)}, {len(SEVERITIES)} severities each")
    table.add_row("groups", ", ".join(["site", *evaluation.factors]))
    table.add_row("trainings", f"{len(cells)} of at most {one.lecture.run.federation.rounds} "
                  f"rounds; {finished} are done already")  # fmt: skip
    console.print(table)
    say_notes(one.lecture, console)


def _reported(
    evaluation: Evaluation, workshop: Workshop, done: parts.Done, clock: Clock
) -> schema.EvaluationReport:
    one, wishes, judge = evaluation.first, evaluation.wishes, evaluation.judge
    run = one.lecture.run
    whole = {entry.name: done[key(entry.name, "all")] for entry in evaluation.entries}
    serious = [entry for entry in evaluation.entries if entry.contestant.whole]
    pictured = wishes.pictures and _pictured(evaluation, workshop, whole)
    return schema.EvaluationReport(
        name=run.name,
        created=datetime.now(UTC),
        version=version("confrere"),
        run=as_dict(run, ALL_FAMILIES),
        digest=digest(dump(run, ALL_FAMILIES)),
        encoders=_encoders(evaluation),
        seeds=run.seeds,
        task=one.lecture.finetune.task.name,
        headline=judge.HEADLINE,
        smallest=wishes.smallest,
        arms={entry.name: _arm(entry, judge, whole[entry.name]) for entry in evaluation.entries},
        gaps=tuple(parts.gaps(evaluation.entries, judge, whole)),
        curve=tuple(parts.curve(evaluation.entries, wishes, judge, done)),
        unseen=tuple(parts.unseen(serious, judge, done)) if wishes.leave_one_site_out else (),
        robustness=tuple(_robust(evaluation, serious, workshop, whole)),
        calibration=tuple(
            found
            for entry in serious
            if (found := confidence.calibrated(entry, whole[entry.name])) is not None
        ),
        factors=tuple(
            factor
            for entry in serious
            for factor in confidence.by_factor(
                entry, judge, whole[entry.name], evaluation.factors, wishes.smallest
            )
        ),
        pictures=pictured,
        cost=_cost(clock),
        warnings=tuple(_warnings(evaluation, clock)),
        skipped=_skipped(one),
        data=_data(one),
        machine=machine(run.train.device),
        command=evaluation.options.command,
    )


def _arm(entry: Entry, judge: Judge, seeds: Sequence[Finished]) -> schema.EvaluatedArm:
    return schema.EvaluatedArm(
        what=entry.contestant.what,
        figures=figures.every(entry.lecture, judge, seeds),
        best_rounds=tuple(seed.best for seed in seeds),
    )


def _robust(
    evaluation: Evaluation,
    serious: Sequence[Entry],
    workshop: Workshop,
    whole: Mapping[str, Sequence[Finished]],
) -> Iterator[schema.Robustness]:
    if not evaluation.wishes.robustness:
        return
    bench = Bench(workshop=workshop, judge=evaluation.judge)
    count = len(names_of(serious[0].lecture)) * len(SEVERITIES)
    bar = workshop.display.bars.add_task("worse images", total=count * len(serious), note="")
    for entry in serious:
        found: dict[tuple[str, int], Any] = {}
        for name, severity, seeds in bench.curves(entry, _base_cells(entry)):
            found[name, severity] = seeds
            workshop.display.bars.advance(bar)
            if severity == SEVERITIES[-1] and not workshop.display.live:
                workshop.display.say(f"{entry.name}: {name} is done")
        yield summed_up(entry, evaluation.judge, whole[entry.name], found)


def _base_cells(entry: Entry) -> list[Cell]:
    return [
        Cell(arm=entry.name, lecture=entry.lecture, seed=seed, keep=True)
        for seed in entry.lecture.run.seeds
    ]


def _pictured(
    evaluation: Evaluation, workshop: Workshop, whole: Mapping[str, Sequence[Finished]]
) -> bool:
    """Write the pictures of each arm's first seed; say whether there are any."""
    shown: dict[str, Sequence[Gallery]] = {}
    for entry in evaluation.entries:
        if entry.contestant.whole:
            cell, seed = _base_cells(entry)[0], whole[entry.name][0]
            paper = exam(entry.lecture, seed.asked)
            shown[entry.name] = galleries(workshop.task(cell), paper, seed.answers)
    if not any(shown.values()):
        return False
    write_pictures(workshop.out / "pictures.html", evaluation.first.lecture.run.name, shown)
    return True


def _encoders(evaluation: Evaluation) -> dict[str, str]:
    return {
        entry.name: str(entry.lecture.finetune.start_digest)
        for entry in evaluation.entries
        if entry.given
    }


def _cost(clock: Clock) -> shared.Cost:
    spent = clock.total
    return shared.Cost(
        wall_s=spent.wall_s,
        cpu_s=spent.cpu_s,
        peak_rss_mib=spent.peak_rss_mib,
        bytes_up=0,
        bytes_down=0,
        images_per_s=0.0,
        sessions=len(clock.earlier) + 1,
    )


def _warnings(evaluation: Evaluation, clock: Clock) -> Iterator[str]:
    lecture = evaluation.first.lecture
    yield from clock.doubts
    yield from lecture.notes
    if lecture.images.skipped:
        yield f"{len(lecture.images.skipped)} images could not be read and were left out."
    if lecture.images.catalog.patient_count == len(lecture.images.catalog):
        yield (
            "Every image counts as a patient of its own: if some show the same patient, the test "
            "is on known patients. Give a patient column to rule it out."
        )
    if not len(lecture.val):
        yield (
            "There are no validation patients: the last round answered in the test, and no "
            "temperature was fitted."
        )
    if not any(entry.given for entry in evaluation.entries):
        yield "No encoder was given (--encoder): the arms show only what starts from random."
    if len(lecture.run.seeds) < REPETITIONS:
        yield (
            f"{len(lecture.run.seeds)} of the {REPETITIONS} repetitions that a claim needs: the "
            "intervals show little of how a result varies with the seed."
        )


def _skipped(one: Entry) -> shared.Skipped:
    reasons = Counter(reason for _, reason in one.lecture.images.skipped)
    return shared.Skipped(count=sum(reasons.values()), reasons=dict(reasons))


def _data(one: Entry) -> shared.Data:
    lecture = one.lecture
    images, patients = lecture.images, lecture.images.catalog.patients
    return shared.Data(
        images=len(lecture.learned),
        patients=len(np.unique(patients[lecture.learned])),
        classes=lecture.finetune.classes or (),
        channels=images.channels,
        size=(images.size,) * images.dims,
        modality=lecture.run.augment.modality,
        test_images=len(lecture.test),
        test_patients=len(np.unique(patients[lecture.test])),
    )


def _say(report: schema.EvaluationReport, out: Path, console: Console) -> None:
    table = Table(title=f"'{report.name}': {report.headline} of test patients")
    table.add_column("arm")
    table.add_column(report.headline, justify="right")
    for name, arm in report.arms.items():
        found = arm.figures.get(report.headline)
        told = f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]" if found else "-"
        table.add_row(name, told)
    console.print(table)
    for warning in report.warnings:
        console.print(f"warning: {warning}", markup=False, style="yellow", soft_wrap=True)
    console.print(f"report: {out / 'report.html'}", markup=False, soft_wrap=True)
    if report.pictures:
        said = f"pictures of patients, they stay here: {out / 'pictures.html'}"
        console.print(said, markup=False, soft_wrap=True)

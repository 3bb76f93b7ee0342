"""Carries out an evaluation from run file to report: ``confrere evaluate``; nothing leaves."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from confrere_client.data.cache import default_cache_dir
from confrere_client.data.images import Images, open_images
from confrere_client.device import choose_device
from confrere_client.evaluation.corruptions import SEVERITIES
from confrere_client.evaluation.factors import groups_of
from confrere_client.finetune.judge import judge_of
from confrere_common.errors import ConfigError, ConfrereError
from confrere_common.preparation import must_be_prepared
from confrere_common.storage import alone
from confrere_deploy.evaluation import parts, schema
from confrere_deploy.evaluation.cells import Cell, Finished, Workshop
from confrere_deploy.evaluation.contestants import Contestant
from confrere_deploy.evaluation.page import write
from confrere_deploy.evaluation.parts import Entry, key
from confrere_deploy.evaluation.reporting import Evaluation, reported
from confrere_deploy.evaluation.wishes import Wishes
from confrere_deploy.evaluation.worse import names_of
from confrere_deploy.report.tuned_pictures import PICTURES
from confrere_deploy.study.cost import Clock
from confrere_deploy.study.finetuning import must_build, must_leave_none_out, say_notes
from confrere_deploy.study.options import Options
from confrere_deploy.study.outbox import STUDY, open_folder
from confrere_deploy.study.progress import Display
from confrere_deploy.study.summary import write_skipped

LOCK = "lock"
BUSY = "another 'confrere evaluate' is at work in this folder: wait for it, or give --out another."


def carry_out(
    contestants: Sequence[Contestant], wishes: Wishes, options: Options, console: Console
) -> schema.EvaluationReport:
    """Train and judge every cell that is not yet finished, and leave report and pictures behind."""
    clock = Clock()
    evaluation = _settled(contestants, wishes, options, console)
    cells = _distinct(parts.cells_of(evaluation.entries, wishes))
    begun = (options.out / STUDY).exists()
    open_folder(options.out, _study(evaluation), resume=options.resume)
    with alone(options.out / LOCK, BUSY):
        return _carried_out(evaluation, cells, clock, console, begun=begun)


def _carried_out(
    evaluation: Evaluation, cells: Sequence[Cell], clock: Clock, console: Console, *, begun: bool
) -> schema.EvaluationReport:
    options = evaluation.options
    clock.keep(options.out, resumed=begun)
    console.print(f"report: {options.out / 'report.html'}", markup=False, soft_wrap=True)
    with clock, Display(console, sum(cell.rounds for cell in cells)) as display:
        workshop = Workshop(out=options.out, judge=evaluation.judge, display=display, clock=clock)
        _say_plan(evaluation, cells, workshop, console)
        done: defaultdict[str, list[Finished]] = defaultdict(list)
        for cell in cells:
            done[key(cell.arm, cell.part)].append(workshop.finished(cell))
        report = reported(evaluation, workshop, done, clock)
    write(options.out, report)
    write_skipped(options.out / "skipped.csv", evaluation.first.lecture.images.skipped)
    _say(report, options.out, console)
    return report


def _settled(
    contestants: Sequence[Contestant], wishes: Wishes, options: Options, console: Console
) -> Evaluation:
    """Return the evaluation; ConfigError with the faults of all arms and parts at once."""
    run = contestants[0].run
    must_leave_none_out(run)
    faults = list(_refused(contestants))
    if faults:
        raise ConfigError(faults)
    choose_device(run.train.device)
    images = _open(contestants[0], options.folder, console)
    must_be_prepared(images.preparation, run.data.preparation)
    entries = []
    for contestant in contestants:
        try:
            entries.append(parts.entry(contestant, images))
            must_build(entries[-1].lecture)
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
    if wishes.leave_one_site_out and len(parts.unseen_sites(one.lecture, wishes.smallest)) < 2:
        yield (
            "--leave-one-site-out: fewer than two sites have images to learn from and "
            f"{parts.least(wishes.smallest)} test patients and give no smaller site away: give a "
            "site column, lower --smallest, or leave it out"
        )


def _open(contestant: Contestant, folder: Path, console: Console) -> Images:
    data = contestant.run.data
    with console.status("reading images") as status:
        return open_images(
            data.source,
            folder=folder,
            image_px=data.image_px,
            crop_px=data.crop_px,
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
        table.add_row("sites left out", ", ".join(parts.unseen_sites(one.lecture, wishes.smallest)))
    if wishes.robustness:
        names = names_of(one.lecture)
        table.add_row("corruptions", f"{', '.join(names)}, {len(SEVERITIES)} severities each")
    table.add_row("groups", ", ".join(["site", *evaluation.factors]))
    table.add_row("trainings", f"{len(cells)} of at most {one.lecture.run.federation.rounds} "
                  f"rounds; {finished} are done already")  # fmt: skip
    console.print(table)
    say_notes(one.lecture, console)


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
        said = f"pictures of patients, they stay here: {out / PICTURES}"
        console.print(said, markup=False, soft_wrap=True)

"""Carries out a fine-tuning from run file to report: ``confrere finetune``, and simulated sites."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from confrere_client.data.cache import default_cache_dir
from confrere_client.data.images import Images, open_images
from confrere_client.device import choose_device
from confrere_client.finetune.judge import judge_of
from confrere_client.finetune.pictures.gallery import galleries
from confrere_common.config import Run
from confrere_common.errors import ConfigError
from confrere_common.model import (
    build_model,
    decoder_weights,
    input_of,
    load_weights,
    preprocessing_of,
    whole_encoder,
)
from confrere_common.network import ENCODER, NETWORK, save_network
from confrere_common.preparation import must_be_prepared
from confrere_common.release import Card, save_release
from confrere_common.task import FineTask
from confrere_deploy.engine import ENGINES, must_run
from confrere_deploy.report.codec import plain
from confrere_deploy.report.tuned import TunedReport, write_tuned
from confrere_deploy.report.tuned_pictures import PICTURES, write_pictures
from confrere_deploy.study import arms, plan
from confrere_deploy.study.cost import Clock
from confrere_deploy.study.finetuning import (
    Arm,
    Lecture,
    Studio,
    must_build,
    must_finetune,
    must_leave_none_out,
    prepared,
    say_notes,
    study_of,
)
from confrere_deploy.study.holdout import Holdout
from confrere_deploy.study.options import Options, observed
from confrere_deploy.study.outbox import STUDY, open_folder
from confrere_deploy.study.progress import Display
from confrere_deploy.study.summary import write_skipped
from confrere_deploy.study.tuned_report import exam_of, renamed, report_of, without_weights
from confrere_server.masked import must_be_maskable, must_hide

ALONE = "inline"

PROBED = ("classification", "retrieval", "anomaly")
"""Tasks that pixels, or an encoder that no label has touched, can be asked as well."""


def carry_out(run: Run, options: Options, console: Console, *, alone: bool) -> TunedReport:
    """Fine-tune over sites, or *alone* at one, and leave report, network and encoder behind."""
    clock = Clock()
    must_finetune(run)
    must_leave_none_out(run)
    must_run(options.engine)
    if options.engine != ALONE:
        raise ConfigError([f"--engine {options.engine} cannot fine-tune yet: leave it out."])
    choose_device(run.train.device)
    images = _open(run, options, console)
    must_be_prepared(images.preparation, run.data.preparation)
    lecture = prepared(run, images, options.folder, alone=alone)
    if not alone:
        must_be_maskable(lecture.run)
        must_hide(lecture.run, len(lecture.sites))
    must_build(lecture)
    table = _plan(lecture)
    begun = (options.out / STUDY).exists()
    code = {"confrere": version("confrere"), "name": run.name}
    open_folder(options.out, {**study_of(lecture), **code}, resume=options.resume)
    clock.keep(options.out, resumed=begun)
    console.print(f"report: {options.out / 'report.html'}", markup=False, soft_wrap=True)
    plan.show(console, table)
    say_notes(lecture, console)
    with clock:
        return _done(lecture, options, console, clock, alone=alone)


def _done(
    lecture: Lecture, options: Options, console: Console, clock: Clock, *, alone: bool
) -> TunedReport:
    judge, run, out = judge_of(lecture.run), lecture.run, options.out
    names = _arms(lecture, alone=alone)
    done: dict[str, list[Arm]] = {name: [] for name in names}
    with Display(console, _rounds(lecture, names)) as display:
        training = arms.Training(
            run=run,
            images=lecture.images,
            sites=lecture.sites,
            folder=out,
            engine=ENGINES.member(options.engine),
            alone=ENGINES.member(ALONE),
            observer=partial(observed, display, clock),
            resources=options.resources,
            warm=lecture.warm,
        )
        studio = Studio(lecture=lecture, training=training, judge=judge)
        for seed in run.seeds:
            for name in names:
                found = studio.arm(name, seed)
                if name == "federated" and seed == run.seeds[0]:
                    first = found
                done[name].append(without_weights(found))
    report = report_of(lecture, judge, renamed(done, alone), clock, options.command)
    report = replace(report, pictures=_pictured(lecture, first, out))
    write_tuned(out, report)
    write_skipped(out / "skipped.csv", lecture.images.skipped)
    _export(lecture, options, first, report)
    console.print(_table(report))
    for warning in report.warnings:
        console.print(f"warning: {warning}", markup=False, style="yellow", soft_wrap=True)
    console.print(f"report: {out / 'report.html'}", markup=False, soft_wrap=True)
    if (out / NETWORK).exists():
        said = f"network: {out} (confrere predict asks it, confrere export releases it)"
        console.print(said, markup=False, soft_wrap=True)
    if report.pictures:
        said = f"pictures of patients, they stay here: {out / PICTURES}"
        console.print(said, markup=False, soft_wrap=True)
    return report


def _pictured(lecture: Lecture, arm: Arm, out: Path) -> bool:
    """Write pictures of the first seed's answers; none where heads are of sites. Say whether."""
    model = build_model(lecture.run, lecture.run.seeds[0])
    if lecture.finetune.head != "shared" or not isinstance(model, FineTask):
        return False
    load_weights(model, arm.weights)
    task = model.to(choose_device(lecture.run.train.device)).eval()
    shown = galleries(task, exam_of(lecture, arm.asked), arm.answers)
    if shown:
        write_pictures(out / PICTURES, lecture.run.name, {"the network": shown})
    return bool(shown)


def _open(run: Run, options: Options, console: Console) -> Images:
    with console.status("reading images") as status:
        return open_images(
            run.data.source,
            folder=options.folder,
            image_px=run.data.image_px,
            crop_px=run.data.crop_px,
            channels=run.data.channels,
            cache_dir=default_cache_dir(),
            progress=lambda done, total: status.update(f"reading images: {done} of {total}"),
        )


def _arms(lecture: Lecture, *, alone: bool) -> Sequence[str]:
    """Return the arms in the order of their work: no floor may cost the main one."""
    fixed = lecture.finetune.task.name in PROBED
    several = lecture.finetune.task.knobs.get("kind") == "multilabel"
    floors = ("raw", "probe") if fixed and not several and lecture.run.floors != "none" else ()
    if lecture.run.floors != "all":
        return ("federated", *floors)
    others = ("scratch",) if lecture.warm else ()
    return ("federated", *floors, *others, *(() if alone else ("local", "centralised")))


def _rounds(lecture: Lecture, names: Sequence[str]) -> int:
    count = {"local": len(lecture.sites), "raw": 0, "probe": 0}
    trainings = sum(count.get(name, 1) for name in names)
    return trainings * lecture.run.federation.rounds * len(lecture.run.seeds)


def _plan(lecture: Lecture) -> Table:
    task = lecture.finetune
    held = Holdout(
        train=lecture.learned, val=lecture.val, test=lecture.test, left_out=lecture.test[:0]
    )
    table = plan.plan(lecture.run, lecture.images, lecture.sites, held)
    start = f"encoder {task.start_digest[:16]}" if task.start_digest else "from scratch"
    if task.start_decoder_digest:
        start += f" and its decoder {task.start_decoder_digest[:16]}"
    table.add_row("mode, start", f"{task.mode}, {start}")
    table.add_row("labels", f"{task.labels} of each class's patients, sampling {task.sampling}")
    if task.classes:
        table.add_row("classes", ", ".join(task.classes))
    wait = f"{task.patience} rounds" if task.patience else "never"
    table.add_row("validation", f"{len(lecture.val)} images; patience {wait}")
    return table


def _export(lecture: Lecture, options: Options, arm: Arm, report: TunedReport) -> None:
    """Write the network of the first seed: whole, and its encoder as any other."""
    run, out = lecture.run, options.out
    network = save_network(out, run, arm.weights)
    channels, size = input_of(run)
    training = {
        "digest": report.digest,
        "seed": run.seeds[0],
        "task": report.task,
        "start": lecture.finetune.start_digest,
        "start_decoder": lecture.finetune.start_decoder_digest,
        "rounds": arm.best,
        "results": plain(report)["arms"],
        "version": report.version,
    }
    card = Card(
        encoder=run.encoder, channels=channels, size=size, training=training,
        preprocessing=preprocessing_of(run, lecture.images.preparation), network=network,
    )  # fmt: skip
    way_up = decoder_weights(run, arm.weights)
    save_release(out / ENCODER, whole_encoder(run, arm.weights), card, way_up)


def _table(report: TunedReport) -> Table:
    table = Table(title=f"'{report.name}': {report.task} of test patients")
    table.add_column("measure")
    for name in report.arms:
        table.add_column(name, justify="right")
    for measure in dict.fromkeys(m for arm in report.arms.values() for m in arm.figures):
        cells = [arm.figures.get(measure) for arm in report.arms.values()]
        told = [f"{c.mean:.3f} [{c.low:.3f}, {c.high:.3f}]" if c else "-" for c in cells]
        table.add_row(measure, *told)
    return table

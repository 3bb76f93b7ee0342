"""From finished cells to the report of an evaluation; worse images are asked about on the way."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confrere_client.evaluation.corruptions import SEVERITIES
from confrere_client.finetune.judge import Judge
from confrere_client.finetune.pictures.gallery import Gallery, galleries
from confrere_common.loading import as_dict, digest, dump
from confrere_deploy.evaluation import confidence, figures, parts, schema
from confrere_deploy.evaluation.cells import Cell, Finished, Workshop, exam
from confrere_deploy.evaluation.parts import Entry, key
from confrere_deploy.evaluation.reuse import reused
from confrere_deploy.evaluation.wishes import Wishes
from confrere_deploy.evaluation.worse import Bench, names_of, summed_up
from confrere_deploy.families import ALL_FAMILIES
from confrere_deploy.report import schema as shared
from confrere_deploy.report.tuned_pictures import PICTURES, write_pictures
from confrere_deploy.study.cost import Clock
from confrere_deploy.study.machine import machine
from confrere_deploy.study.options import Options
from confrere_deploy.study.structures import outlined

REPETITIONS = 3
"""Seeds that a claim needs."""
FEW = 20
"""Test patients below which a bootstrap over them is not to be believed."""


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


def reported(
    evaluation: Evaluation, workshop: Workshop, done: parts.Done, clock: Clock
) -> schema.EvaluationReport:
    """Return report.json's content, and write the page of pictures."""
    one, wishes, judge = evaluation.first, evaluation.wishes, evaluation.judge
    run = one.lecture.run
    whole = {entry.name: done[key(entry.name, "all")] for entry in evaluation.entries}
    serious = [entry for entry in evaluation.entries if entry.contestant.whole]
    reached = {entry.name: _arm(entry, judge, whole[entry.name]) for entry in evaluation.entries}
    headlined = any(judge.HEADLINE in arm.figures for arm in reached.values())
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
        arms=reached,
        gaps=parts.corrected(list(parts.gaps(evaluation.entries, judge, whole))),
        curve=tuple(parts.curve(evaluation.entries, wishes, judge, done)),
        unseen=_unseen(evaluation, serious, done),
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
        reuse=tuple(reused(entry, _whole_cells(entry), workshop) for entry in serious),
        pictures=pictured,
        cost=_cost(clock),
        warnings=tuple(_warnings(evaluation, clock, headlined=headlined)),
        skipped=_skipped(one),
        data=_data(one),
        machine=machine(run.train.device),
        command=evaluation.options.command,
    )


def _unseen(
    evaluation: Evaluation, serious: Sequence[Entry], done: parts.Done
) -> tuple[schema.UnseenSite, ...]:
    if not evaluation.wishes.leave_one_site_out:
        return ()
    return tuple(parts.unseen(serious, evaluation.wishes, evaluation.judge, done))


def _arm(entry: Entry, judge: Judge, seeds: Sequence[Finished]) -> schema.EvaluatedArm:
    paper = exam(entry.lecture, seeds[0].asked)
    return schema.EvaluatedArm(
        what=entry.contestant.what,
        figures=figures.every(entry.lecture, judge, seeds),
        structures=outlined([seed.answers for seed in seeds], paper),
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
        for name, severity, seeds in bench.curves(entry, _whole_cells(entry)):
            found[name, severity] = seeds
            workshop.display.bars.advance(bar)
            if severity == SEVERITIES[-1] and not workshop.display.live:
                workshop.display.say(f"{entry.name}: {name} is done")
        yield summed_up(entry, evaluation.judge, whole[entry.name], found)


def _whole_cells(entry: Entry) -> list[Cell]:
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
            cell, seed = _whole_cells(entry)[0], whole[entry.name][0]
            paper = exam(entry.lecture, seed.asked)
            shown[entry.name] = galleries(workshop.task(cell), paper, seed.answers)
    if not any(shown.values()):
        return False
    write_pictures(workshop.out / PICTURES, evaluation.first.lecture.run.name, shown)
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


def _warnings(evaluation: Evaluation, clock: Clock, *, headlined: bool) -> Iterator[str]:
    lecture = evaluation.first.lecture
    yield from clock.doubts
    yield from _of_test(evaluation, headlined)
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
    else:
        yield (
            "Nothing here knows which images a given encoder was trained on: if those of test "
            "patients were among them, even without labels, neither they nor their site are new "
            "to it."
        )
    if len(lecture.run.seeds) < REPETITIONS:
        yield (
            f"{len(lecture.run.seeds)} of the {REPETITIONS} repetitions that a claim needs: the "
            "intervals show little of how a result varies with the seed."
        )


def _of_test(evaluation: Evaluation, headlined: bool) -> Iterator[str]:
    lecture = evaluation.first.lecture
    count = len(np.unique(lecture.images.catalog.patients[lecture.test]))
    if count < FEW:
        yield (
            f"{count} test patients: intervals over so few are too narrow, and a perfect score has "
            "none at all."
        )
    if not headlined:
        yield (
            f"{evaluation.judge.HEADLINE} is not known on these test patients (all of one class, "
            "it may be): arms are not compared by it."
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
        size=images.sides,
        modality=lecture.run.augment.modality,
        test_images=len(lecture.test),
        test_patients=len(np.unique(patients[lecture.test])),
    )

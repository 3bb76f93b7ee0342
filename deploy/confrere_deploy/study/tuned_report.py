"""From what arms answered to the report of a fine-tuning."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from confrere_client.device import choose_device
from confrere_client.evaluation.paired import (
    Weighed,
    holm,
    swap_test,
    weighed_difference,
    weighed_figure,
)
from confrere_client.finetune.judge import Answers, Exam, Judge, both
from confrere_client.finetune.lesson import Lesson
from confrere_client.measure.intervals import Figure
from confrere_common.loading import as_dict, digest, dump
from confrere_common.validated import UNCHOSEN, unchosen
from confrere_deploy.families import ALL_FAMILIES
from confrere_deploy.report import schema, tuned
from confrere_deploy.report.pooled import cautions
from confrere_deploy.study.cost import Clock
from confrere_deploy.study.counted import counted
from confrere_deploy.study.finetuning import ARMS, Arm, Lecture, is_blind
from confrere_deploy.study.joining import of_answers
from confrere_deploy.study.machine import machine
from confrere_deploy.study.measure import LEAST_PATIENTS
from confrere_deploy.study.structures import outlined

Done = Mapping[str, Sequence[Arm]]
"""Arm -> what each seed answered."""


def report_of(lecture: Lecture, judge: Judge, done: Done, clock: Clock, command: str | None = None,
              ) -> tuned.TunedReport:  # fmt: skip
    """Return report.json's content."""
    run = lecture.run
    told = counted(lecture, done["federated"][0]) if "federated" in done else None
    return tuned.TunedReport(
        name=run.name,
        created=datetime.now(UTC),
        version=version("confrere"),
        run=as_dict(run, ALL_FAMILIES),
        digest=digest(dump(run, ALL_FAMILIES)),
        seeds=run.seeds,
        task=lecture.finetune.task.name,
        headline=judge.HEADLINE,
        sites=tuple(_sites(lecture)),
        arms={name: _arm(lecture, judge, name, seeds) for name, seeds in done.items()},
        differences=(gaps := _differences(lecture, judge, done)),
        chances=_chances(lecture, judge, done, gaps),
        joining=_joining(lecture, judge, done),
        courses=tuple(_courses(lecture, done)),
        evaluation=told,
        cost=_cost(done, clock),
        warnings=(*_warnings(lecture, clock), *cautions(told)),
        skipped=_skipped(lecture),
        data=_data(lecture),
        machine=machine(run.train.device),
        command=command,
    )


def _arm(lecture: Lecture, judge: Judge, name: str, seeds: Sequence[Arm]) -> tuned.TunedArm:
    rows = _common(seeds)
    exam, found = exam_of(lecture, rows), [at(arm, rows) for arm in seeds]
    each = [judge.figures(answers, exam) for answers in found]
    patients = lecture.images.catalog.patients[rows]
    figures = {
        measure: _plain(weighed_figure([one[measure] for one in each], patients))
        for measure in each[0]
    }
    known = {measure: figure for measure, figure in figures.items() if figure is not None}
    return tuned.TunedArm(
        what=ARMS.get(name, name),
        figures=known,
        sites=dict(_by_site(lecture, judge, seeds, rows)),
        structures=outlined(found, exam),
    )


def _by_site(
    lecture: Lecture, judge: Judge, seeds: Sequence[Arm], rows: NDArray[np.int64]
) -> Iterator[tuple[str, schema.Figure]]:
    where = lecture.test_sites[np.searchsorted(lecture.test, rows)]
    patients = lecture.images.catalog.patients
    for site in lecture.sites if len(lecture.sites) > 1 else ():
        ours = rows[where == site]
        if len(np.unique(patients[ours])) < LEAST_PATIENTS:
            continue
        exam = exam_of(lecture, ours)
        each = [judge.figures(at(arm, ours), exam)[judge.HEADLINE] for arm in seeds]
        found = _plain(weighed_figure(each, patients[ours]))
        if found is not None:
            yield site, found


def _differences(lecture: Lecture, judge: Judge, done: Done) -> dict[str, schema.Figure]:
    names = [name for name in ("federated", "tuned") if name in done]
    found = {}
    for ours in names:
        for theirs in done:
            gap = _difference(lecture, judge, done[ours], done[theirs]) if ours != theirs else None
            if gap is not None:
                found[f"{ours}-{theirs}"] = gap
    return found


def _difference(
    lecture: Lecture, judge: Judge, ours: Sequence[Arm], theirs: Sequence[Arm]
) -> schema.Figure | None:
    rows = _common([*ours, *theirs])
    if not len(rows):
        return None
    exam = exam_of(lecture, rows)

    def leading(arm: Arm) -> Weighed:
        return judge.figures(at(arm, rows), exam)[judge.HEADLINE]

    patients = lecture.images.catalog.patients[rows]
    mine, other = [leading(arm) for arm in ours], [leading(arm) for arm in theirs]
    return _plain(weighed_difference(mine, other, patients))


def _chances(
    lecture: Lecture, judge: Judge, done: Done, gaps: Mapping[str, schema.Figure]
) -> dict[str, tuned.Chance]:
    """Return p of each difference, by itself and where all are looked at together."""
    pairs = {pair: pair.split("-") for pair in gaps}
    found = {
        pair: _p(lecture, judge, done[ours], done[theirs]) for pair, (ours, theirs) in pairs.items()
    }
    known = {pair: p for pair, p in found.items() if np.isfinite(p)}
    corrected = holm(known)
    return {pair: tuned.Chance(p=p, p_corrected=corrected[pair]) for pair, p in known.items()}


def _p(lecture: Lecture, judge: Judge, ours: Sequence[Arm], theirs: Sequence[Arm]) -> float:
    """Return p that two arms differ by chance, seed by seed on the same images; NaN: not known."""
    rows = _common([*ours, *theirs])
    if len(ours) != len(theirs):
        return float("nan")
    exam = exam_of(lecture, rows)
    found = [
        both(judge, at(mine, rows), at(other, rows), exam)
        for mine, other in zip(ours, theirs, strict=True)
    ]
    return swap_test(found, lecture.images.catalog.patients[rows])


def _joining(lecture: Lecture, judge: Judge, done: Done) -> schema.Joining | None:
    """Return whether joining paid by the leading measure; None unless sites were alone as well."""
    if not {"federated", "local"} <= done.keys():
        return None
    common = _common([*done["federated"], *done["local"]])

    def both(_: str, rows: NDArray[np.int64]) -> tuple[list[Weighed], list[Weighed]]:
        exam = exam_of(lecture, common[rows])
        ours, theirs = (
            [judge.figures(at(arm, common[rows]), exam)[judge.HEADLINE] for arm in done[name]]
            for name in ("federated", "local")
        )
        return ours, theirs

    where = lecture.test_sites[np.searchsorted(lecture.test, common)]
    return of_answers(both, lecture.images.catalog.patients[common], where)


def exam_of(lecture: Lecture, rows: NDArray[np.int64]) -> Exam:
    """Return the exam on some test images."""
    device = choose_device(lecture.run.train.device)
    return Exam(
        run=lecture.run, images=lecture.images, learned=lecture.learned, asked=rows, device=device
    )


def at(arm: Arm, rows: NDArray[np.int64]) -> Answers:
    """Return an arm's answers for some of the images that it was asked about."""
    places = np.searchsorted(arm.asked, rows)
    return {name: values[places] for name, values in arm.answers.items()}


def _common(found: Sequence[Arm]) -> NDArray[np.int64]:
    rows = found[0].asked
    for arm in found[1:]:
        rows = np.intersect1d(rows, arm.asked)
    return rows


def _plain(figure: Figure | None) -> schema.Figure | None:
    if figure is None:
        return None
    return schema.Figure(mean=figure.mean, low=figure.low, high=figure.high, n=figure.n)


def _sites(lecture: Lecture) -> Iterator[tuned.TunedSite]:
    patients = lecture.images.catalog.patients
    names = lecture.finetune.classes or ()
    for site, rows in lecture.sites.items():
        lesson = Lesson(images=lecture.images, rows=rows, finetune=lecture.finetune)
        tested = lecture.test[lecture.test_sites == site]
        yield tuned.TunedSite(
            site=site,
            images=len(rows),
            patients=len(np.unique(patients[rows])),
            classes=dict(zip(names, map(int, lesson.counts), strict=True)),
            test_patients=len(np.unique(patients[tested])),
        )


def _courses(lecture: Lecture, done: Done) -> Iterator[tuned.Course]:
    for name, seeds in done.items():
        if not seeds[0].rounds:  # a floor is not trained
            continue
        for seed, arm in zip(lecture.run.seeds, seeds, strict=True):
            scores = {number: value for number, value in arm.scores.items() if value == value}
            yield tuned.Course(
                arm=name, seed=seed, losses=dict(arm.losses), scores=dict(scores), best=arm.best
            )


def _cost(done: Done, clock: Clock) -> schema.Cost:
    every = [arm for seeds in done.values() for arm in seeds]
    spent = clock.total
    return schema.Cost(
        wall_s=spent.wall_s,
        cpu_s=spent.cpu_s,
        peak_rss_mib=spent.peak_rss_mib,
        bytes_up=sum(arm.bytes_up for arm in every),
        bytes_down=sum(arm.bytes_down for arm in every),
        images_per_s=0.0,
        sessions=len(clock.earlier) + 1,
    )


def _warnings(lecture: Lecture, clock: Clock) -> Iterator[str]:
    yield from clock.doubts
    yield from lecture.notes
    images = lecture.images
    if images.skipped:
        yield f"{len(images.skipped)} images could not be read and were left out."
    if images.catalog.patient_count == len(images.catalog):
        yield (
            "Every image counts as a patient of its own: if some show the same patient, the test "
            "is on known patients. Give a patient column to rule it out."
        )
    why = unchosen(lecture.run)
    if is_blind(lecture.run):
        yield f"No round was chosen, the last one answered in the test: {UNCHOSEN[why]}."
    elif not len(lecture.val):
        yield "There are no validation patients: the last round answered in the test."
    elif why and len(lecture.sites) > 1:
        yield (
            "The round was chosen on validation patients. A federation of hospitals would choose "
            f"none and publish the last: {UNCHOSEN[why]}."
        )
    if len(lecture.run.seeds) < 3:
        yield (
            f"{len(lecture.run.seeds)} of the 3 repetitions that a claim needs: the intervals show "
            "little of how a result varies with the seed."
        )


def _skipped(lecture: Lecture) -> schema.Skipped:
    reasons = Counter(reason for _, reason in lecture.images.skipped)
    return schema.Skipped(count=sum(reasons.values()), reasons=dict(reasons))


def _data(lecture: Lecture) -> schema.Data:
    images, patients = lecture.images, lecture.images.catalog.patients
    return schema.Data(
        images=len(lecture.learned),
        patients=len(np.unique(patients[lecture.learned])),
        classes=lecture.finetune.classes or (),
        channels=images.channels,
        size=images.sides,
        modality=lecture.run.augment.modality,
        test_images=len(lecture.test),
        test_patients=len(np.unique(patients[lecture.test])),
        preparation=None if images.preparation is None else dict(images.preparation),
    )


def renamed(done: Done, alone: bool) -> Done:
    """Return the arms under the names that fit one site, where there is only one."""
    if not alone:
        return done
    return {{"federated": "tuned"}.get(name, name): list(seeds) for name, seeds in done.items()}


def without_weights(arm: Arm) -> Arm:
    """Return an arm without its weights: of many seeds only the first one's are exported."""
    return replace(arm, weights={})

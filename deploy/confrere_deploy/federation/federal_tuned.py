"""The report of a federation that fine-tuned: its rounds, and what sites counted of the scores."""

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

from confrere_client.finetune.judge import judge_of
from confrere_common.codes import CODES, sentence_of
from confrere_common.config import Run
from confrere_common.errors import ConfigError
from confrere_common.judged import SCORED, evaluation_of
from confrere_common.loading import as_dict
from confrere_common.model import input_of, task_of
from confrere_common.preparation import demanded
from confrere_common.validated import UNCHOSEN, unchosen
from confrere_deploy.report import schema, tuned
from confrere_deploy.report.pooled import HEADLINES, Evaluated, cautions, evaluated
from confrere_deploy.study.history import record_warnings
from confrere_deploy.study.machine import machine
from confrere_deploy.study.protection import Told, protection, rounds_of
from confrere_server.record import RoundRecord
from confrere_server.runs.course import Course as CourseSoFar
from confrere_server.store import ServerState

UNSCORED = "Nothing was measured on held-out patients: the coordinator has no images. "

LAST = "No round was chosen, the last one was published"

WHY_NOT: Mapping[str, str] = {
    "privacy": "A run with privacy asks for no evaluation, since its counts would not be noised.",
    "task": f"Sites can score only {', '.join(SCORED)}, so far.",
    "off": "The run asks for none (finetune.evaluation).",
}


def tuned_report(
    run: Run,
    digest: str,
    state: ServerState,
    found: Sequence[Mapping[str, Any]],
    told: Told = MappingProxyType({}),
    course: CourseSoFar | None = None,
) -> tuned.TunedReport:
    """Return what there is to report of a fine-tuning; *found* are its evaluations, pooled.

    *state* says what sites said in sentences. *course* is what validation said of its rounds.
    """
    task = task_of(run)
    if task is None:
        raise ConfigError(["stage is pretrain: it has another report."])
    channels, size = input_of(run)
    best = course.chosen if course is not None else None
    validated = course.scores if course is not None and best is not None else {}
    scores, records = evaluated(found), state.records
    images = _images(state)
    return tuned.TunedReport(
        name=run.name,
        created=datetime.now(UTC),
        version=version("confrere"),
        run=as_dict(run),
        digest=digest,
        seeds=run.seeds,
        task=task.task.name,
        headline=judge_of(run).HEADLINE if validated else HEADLINES[SCORED[task.task.name]],
        sites=tuple(tuned.TunedSite(site=site, images=n) for site, n in sorted(images.items())),
        arms={},
        courses=(
            tuned.Course(
                arm="federated",
                seed=run.seeds[0],
                losses={record.round: record.loss for record in records},
                scores={number: score for number, score in validated.items() if score == score},
                best=best or state.round,
            ),
        ),
        evaluation=scores,
        cost=schema.Cost(
            wall_s=sum(record.seconds for record in records),
            bytes_up=sum(record.bytes_up for record in records),
            bytes_down=sum(record.bytes_down + _again(record, course) for record in records),
            images_per_s=0.0,
        ),
        protection=protection(run, told, rounds_of(records)),
        warnings=(
            *_unscored(run, scores),
            *_choice(run, course),
            *cautions(scores),
            *record_warnings(run.seeds[0], records),
        ),
        data=schema.Data(
            images=sum(images.values()),
            classes=task.classes or (),
            channels=channels,
            size=size,
            modality=run.augment.modality,
            test_images=0,
            test_patients=0,
            preparation=demanded(run.data.preparation),
        ),
        machine=machine("cpu"),
        command=shlex.join(["confrere", *sys.argv[1:]]),
    )


def _again(record: RoundRecord, course: CourseSoFar | None) -> int:
    """Return the bytes of a round's weights that went once more to the sites that validated it."""
    asked = len(course.heard.get(record.round, {})) if course is not None else 0
    return record.bytes_down // max(len(record.sites), 1) * asked


def _images(state: ServerState) -> dict[str, int]:
    """Return the images that each site trained on; of one that never did, none are known."""
    images: dict[str, int] = {}
    for record in state.records:
        for site in record.sites:
            images[site.site] = site.images or images.get(site.site, 0)
    return images


def _choice(run: Run, course: CourseSoFar | None) -> Iterator[str]:
    """Yield why no round was chosen; or which sites had no part in the choice."""
    why = unchosen(run)
    if why:
        yield f"{LAST}: {UNCHOSEN[why]}.{_unused(run)}"
        return
    heard = course.heard if course is not None else {}
    sites = {site for said in heard.values() for site in said}
    told = {s for said in heard.values() for s, one in said.items() if not isinstance(one, str)}
    silent = {
        site: next(said[site] for _, said in sorted(heard.items(), reverse=True) if site in said)
        for site in sorted(sites - told)
    }
    if not told:
        yield f"{LAST}: no site told a score of validation patients.{_unused(run)}"
    for site, code in silent.items():
        said = sentence_of(str(code)) if code in CODES else str(code)
        yield f"Site '{site}' told no score of validation patients: {said}"


def _unused(run: Run) -> str:
    task = task_of(run)
    if task is None or task.patience is None:
        return ""
    return f" finetune.patience ({task.patience}) was not used."


def _unscored(run: Run, scores: Evaluated | None) -> Iterator[str]:
    if evaluation_of(run) is None:
        task = task_of(run)
        other = task is not None and task.task.name not in SCORED
        why = "privacy" if run.privacy is not None else "task" if other else "off"
        yield UNSCORED + WHY_NOT[why]
    elif scores is None or scores.worth is None:
        yield UNSCORED + "No site told enough of any class; see each one's reason."

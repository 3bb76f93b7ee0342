"""A description of simulated sites, by the code that a hospital and a coordinator run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from confrere_client.data.catalog import catalog_of, check_patients
from confrere_client.describing import describe
from confrere_client.marking import marks_that_leave
from confrere_client.source import Record, open_source
from confrere_common.codes import code_of, sentence_of
from confrere_common.config import Run
from confrere_common.describe import MOST_TEXT, description_text
from confrere_common.errors import ConfrereError
from confrere_common.exchange import Answer, Refusal, Task, Update
from confrere_common.loading import digest, dump
from confrere_common.marks import MOST_MARKS_BYTES
from confrere_deploy.description.report import DescribedReport, write_described_report
from confrere_deploy.families import ALL_FAMILIES
from confrere_deploy.split import spread
from confrere_deploy.study.holdout import holdout
from confrere_deploy.study.options import Options
from confrere_deploy.study.outbox import open_folder
from confrere_server.description.collecting import Keep, asked_of, heard, put_together
from confrere_server.description.sharing import NOTHING, KeepSharing, Sharing, among
from confrere_server.rounds import Study, run_rounds
from confrere_server.store import ServerState


def carry_out(run: Run, options: Options, console: Console) -> DescribedReport:
    """Have simulated sites tell of their training images, and report what that means.

    Where the run names no labels, all that the images have are asked for: here nobody is hidden.
    """
    records = open_source(run.data.source, options.folder).records()
    check_patients(records)
    catalog = catalog_of(records)
    asked = asked_of(run)
    if not asked.labels:
        run = replace(run, describe=replace(asked, labels=catalog.classes[:64]))
    held = holdout(catalog, run.data.test_share, run.data.val_share, run.data.seed)
    sites = spread(run.data, catalog, held.train)
    study = {"run": _id(run), "confrere": version("confrere")}
    open_folder(options.out, study, resume=options.resume)
    texts: dict[str, str] = {}
    sharing: list[Sharing] = []
    with console.status("counting"):
        state = _round(run, records, sites, (texts.__setitem__, sharing.append))
    refused = {s.site: s.refused for r in state.records for s in r.sites if s.refused}
    told = put_together(run, state, texts)
    shared = among(sharing[-1], [*told]) if sharing else NOTHING
    report = write_described_report(options.out, run, told, refused, shared)
    _show(report, options, console)
    return report


def _id(run: Run) -> str:
    return digest(dump(run, ALL_FAMILIES))


def _round(
    run: Run,
    records: Sequence[Record],
    sites: Mapping[str, NDArray[np.int64]],
    keep: tuple[Keep, KeepSharing],
) -> ServerState:
    def ask(cohort: Sequence[str], task: Task) -> Iterator[Answer]:
        answers = (_answer(run, site, task, [records[n] for n in sites[site]]) for site in cohort)
        return heard(answers, asked_of(run), *keep)

    study = Study(
        run=run,
        text=dump(run),
        seed=run.seeds[0],
        sites=tuple(sites),
        ask=ask,
        save=lambda _: None,
        observe=lambda _: None,
    )
    return run_rounds(study, ServerState(round=0, weights={}, step={}))


def _answer(run: Run, site: str, task: Task, its: Sequence[Record]) -> Answer:
    asked, modality = asked_of(run), run.augment.modality
    try:
        # Simulated: whose image it is, where nobody knows, is taken to differ.
        told = describe(its, asked, vouched=True, modality=modality)
        text = description_text(told, asked)
        marks = marks_that_leave(
            its, asked, allowed=True, run_id=_id(run), most_bytes=MOST_TEXT + MOST_MARKS_BYTES
        )
    except ConfrereError as fault:
        return Refusal(site=site, round=task.round, reason=sentence_of(code_of(fault)))
    said = Update(site=site, round=task.round, delta={}, images=len(its), description=text)
    return replace(said, marks=marks)


def _show(report: DescribedReport, options: Options, console: Console) -> None:
    for one in report.advice:
        console.print(f"{one['subject']}: {one['text']}", markup=False, highlight=False)
    console.print(f"report: {options.out / 'report.html'}", markup=False, soft_wrap=True)

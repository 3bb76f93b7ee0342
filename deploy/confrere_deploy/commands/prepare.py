"""confrere client prepare: a hospital's own files become a data set that trains."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from confrere_deploy.commands.bars import bars

if TYPE_CHECKING:
    from confrere_client.ingest.preprocess_plan import Plan

# Names and reasons come from outside: nothing in them is markup.
console = Console(soft_wrap=True, highlight=False, markup=False)

SHOWN = 5
"""Reasons of skips on the screen; the report has all."""

LEAKED = 3
"""What --check-phi exits with when it has found something."""


def prepare(  # noqa: PLR0913  (an option each)
    sources: Annotated[
        list[Path] | None, typer.Argument(metavar="SOURCE...", help="Folders, files, archives.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The data set's folder; DATASET.private is beside.")] = (
        Path("dataset")
    ),
    modality: Annotated[
        str | None, typer.Option(help="Only this kind (ct, mr, cxr, ...), and what says none.")
    ] = None,
    image_px: Annotated[
        int | None, typer.Option(help="Longer side of pictures; 0 keeps their own.", min=0)
    ] = None,
    spacing_mm: Annotated[
        str | None, typer.Option(help="Of volumes: one number, or Z,Y,X.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Processes that read.", min=1)] = 1,
    catalog: Annotated[
        Path | None,
        typer.Option(help="CSV or Parquet: path, patient, site, label, mask, boxes, sex, age."),
    ] = None,
    knobs: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="key=value",
            help="ct_windows=\\[lung,soft], crop_foreground=false, microns_per_px=0.5, "
            "path_column=file, archives.depth=5, ...",
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            "-d",
            help="The site's folder, to keep the patient secret.",
            envvar="CONFRERE_SITE",
        ),
    ] = None,
    file_s: Annotated[float, typer.Option(help="Seconds that a file may take.", min=1)] = 120.0,
    exam_gib: Annotated[
        float, typer.Option(help="Largest exam, decoded, in GiB.", min=0.001)
    ] = 2.0,
    burnt_in: Annotated[
        str, typer.Option(help="Text in ultrasound and radiographs: mask, flag or skip.")
    ] = "mask",
    check_phi: Annotated[
        bool, typer.Option("--check-phi", help="Search every produced byte for names, ids, dates.")
    ] = False,
) -> None:
    """Read whatever lies in SOURCE and keep it, without names, as a data set; say what was found.

    Run it again when new exams have come, or after it was stopped: it goes on from there.
    """
    from confrere_client.ingest.prepare import Order, prepare
    from confrere_client.ingest.working.desk import Bounds
    from confrere_deploy.commands.prepare_knobs import sorted_out

    given = sorted_out(knobs or ())
    if sources or not check_phi:
        order = Order(
            sources=tuple(sources or ()),
            dataset=out,
            plan=_plan(modality, image_px, spacing_mm, burnt_in),
            table=catalog,
            table_knobs=given.columns,
            options=given.options,
            shaping=given.shaping,
            secret=folder / "keys" / "patient.key" if folder else None,
            jobs=jobs,
            bounds=Bounds(
                file_s=file_s, exam_bytes=int(exam_gib * (1 << 30)), archives=given.archives
            ),
        )
        with bars(console) as watch:
            done = prepare(order, watch)
        _say(done, order)
    if check_phi:
        _check(out)


def _plan(
    modality: str | None, image_px: int | None, spacing_mm: str | None, burnt_in: str
) -> "Plan":
    from confrere_client.ingest.preprocess_plan import Plan
    from confrere_deploy.commands.prepare_knobs import made

    asked: dict[str, Any] = {"modality": modality, "burnt_in": burnt_in}
    if image_px is not None:
        asked["image_px"] = image_px or None
    if spacing_mm is not None:
        steps = spacing_mm.replace("x", ",").split(",")
        asked["spacing_mm"] = steps * 3 if len(steps) == 1 else steps
    return made(Plan, asked)


def _say(done: Any, order: Any) -> None:
    import json

    from confrere_client.ingest.judging.naming import LEFT_OUT
    from confrere_deploy.commands.prepare_next import next_steps

    out = order.dataset
    told = json.loads((out / "report.json").read_bytes())
    skipped = sum(told["skipped"].values())
    console.print(
        f"{out}: {told['exams']} exams of {told['patients']} patients "
        f"({told['exams_of_unknown_patients']} exams of nobody known), {skipped} skipped; "
        f"{done.met} files met, {done.read} read in this turn."
    )
    for kind, count in [*told["skipped"].items()][:SHOWN]:
        console.print(f"  {count} x {kind}")
    for kind, warning in LEFT_OUT.items():
        if count := told["warnings"].get(warning):
            console.print(
                f"{count} exams without the {kind} of your catalog: it holds a word by which their "
                "files name somebody or something (a patient, a number, an institution). Call it "
                "otherwise there, and prepare again."
            )
    if done.lost_rows:
        console.print(f"{done.lost_rows} rows of the catalog name no file that was found.")
    console.print(
        f"report: {out / 'report.html'} (stays here)\n"
        f"each exam with its files: {order.private / 'exams.csv'} (holds names)\n"
        f"skipped files: {order.private / 'skipped.csv'} (holds names)"
    )
    for line in next_steps(out):
        console.print(line)


def _check(out: Path) -> None:
    from confrere_client.ingest.judging.phi import check_phi
    from confrere_client.ingest.prepare import private_folder

    found = check_phi(out, private_folder(out) / "book.sqlite")
    console.print(found.told())
    if found.hits:
        raise typer.Exit(LEAKED)

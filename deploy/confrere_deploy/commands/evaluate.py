"""Evaluate encoders at one place: confrere evaluate RUN.yaml; nothing leaves the machine."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console()


def evaluate(  # noqa: PLR0913  (an option each)
    run_file: Annotated[Path, typer.Argument(help="The run's YAML file, with a section finetune.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the report; default runs/NAME-DATE-TIME.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="a.b=c", help="Change one value of the run."),
    ] = None,
    encoders: Annotated[
        list[Path] | None,
        typer.Option("--encoder", help="encoder.safetensors or a release; may be repeated."),
    ] = None,
    label_curve: Annotated[
        bool, typer.Option("--label-curve", help="Fine-tune on the shares of --labels, too.")
    ] = False,
    labels: Annotated[
        str, typer.Option(help="Shares of the patients, or 'N per class', with commas between.")
    ] = "0.01,0.1,1.0",
    leave_one_site_out: Annotated[
        bool,
        typer.Option("--leave-one-site-out", help="Test each site on what the others taught."),
    ] = False,
    robustness: Annotated[
        bool, typer.Option("--robustness", help="Test on corrupted images, too.")
    ] = False,
    smallest: Annotated[
        int, typer.Option(help="Patients below which a group is not spoken of.", min=2)
    ] = 10,
    pictures: Annotated[
        bool, typer.Option(help="Write pictures.html: images of patients, to stay here.")
    ] = True,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on in --out; finished trainings are kept.")
    ] = False,
) -> None:
    """Measure what encoders are worth: few labels, unseen sites, worse images, groups; all stays.

    Each given encoder is fine-tuned beside the same network from scratch, and both frozen.
    """
    # Imported here: torch takes seconds to load, and --help should not.
    from confrere_common.loading import read_plain
    from confrere_deploy.evaluation.carry import carry_out
    from confrere_deploy.evaluation.contestants import contestants
    from confrere_deploy.evaluation.wishes import Wishes, labels_in
    from confrere_deploy.output import default_out
    from confrere_deploy.study.options import Options

    wishes = Wishes(
        encoders=tuple(encoders or ()),
        curve=labels_in(labels) if label_curve else (),
        leave_one_site_out=leave_one_site_out,
        robustness=robustness,
        pictures=pictures,
        smallest=smallest,
    )
    plain = {**read_plain(run_file, changes or ()), "stage": "finetune"}
    found = contestants(plain, wishes.encoders, str(run_file))
    options = Options(
        folder=run_file.parent,
        out=out or default_out(found[0].run.name, resume=resume),
        resume=resume,
        resources={},
        command=shlex.join(["confrere", *sys.argv[1:]]),
    )
    carry_out(found, wishes, options, console)

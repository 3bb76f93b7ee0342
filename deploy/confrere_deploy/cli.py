"""The command line: confrere simulate, check, methods, encoders, rules, embed."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer
from rich.console import Console
from rich.table import Table

from confrere_common.errors import ConfrereError
from confrere_common.family import Family
from confrere_common.log import start_logging
from confrere_deploy.commands import client, provision, release, server
from confrere_deploy.commands.evaluate import evaluate
from confrere_deploy.commands.finetune import finetune
from confrere_deploy.commands.predict import predict
from confrere_deploy.output import default_out

if TYPE_CHECKING:
    from confrere_common.config import Run

INTERRUPTED = 130
"""What the shell expects of a program that was told to stop; typer answers it for Ctrl-C."""

app = typer.Typer(
    name="confrere",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Federated self-supervised training of medical image encoders. Images never leave a site.",
)
app.add_typer(server.app)
app.add_typer(client.app)
app.add_typer(provision.app)
app.add_typer(release.app)
app.command()(finetune)
app.command()(evaluate)
app.command()(predict)
console = Console()

RunFile = Annotated[
    Path, typer.Argument(help="The run's YAML file, such as configs/quickstart.yaml.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="a.b=c", help="Change one value of the run; may be repeated."),
]


@app.command()
def simulate(  # noqa: PLR0913  (an option each)
    run_file: RunFile,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for report and encoder; default runs/NAME-DATE-TIME."),
    ] = None,
    changes: Sets = None,
    seed: Annotated[int | None, typer.Option(help="One repetition with this seed.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last finished round in --out.")
    ] = False,
    engine: Annotated[
        str, typer.Option(help="inline (this process) or ray (Flower's).")
    ] = "inline",
    cpus_per_site: Annotated[int, typer.Option(help="Cores for each site, ray only.", min=1)] = 1,
    gpus_per_site: Annotated[
        float, typer.Option(help="Share of a GPU for each site, ray only.", min=0)
    ] = 0.0,
) -> None:
    """Train a federation on this machine and report honestly what it learned."""
    # Imported here, as below: torch takes seconds to load, and --help should not.
    from confrere_common.loading import read_run
    from confrere_deploy.families import ALL_FAMILIES
    from confrere_deploy.simulate import Options, carry_out

    overrides = [*(changes or []), *([f"seeds=[{seed}]"] if seed is not None else [])]
    run = read_run(run_file, overrides, ALL_FAMILIES)
    options = Options(
        folder=run_file.parent,
        out=out or default_out(run.name, resume=resume),
        resume=resume,
        engine=engine,
        resources={"num_cpus": cpus_per_site, "num_gpus": gpus_per_site},
        command=shlex.join(["confrere", *sys.argv[1:]]),
    )
    if run.stage == "describe":
        from confrere_deploy.description import simulated

        simulated.carry_out(run, options, console)
    elif run.stage == "finetune":
        from confrere_deploy.study import tune

        tune.carry_out(run, options, console, alone=False)
    else:
        carry_out(run, options, console)


@app.command()
def check(
    run_file: RunFile,
    changes: Sets = None,
    engine: Annotated[str, typer.Option(help="The engine it shall run on: inline or ray.")] = (
        "inline"
    ),
    explain: Annotated[
        bool, typer.Option("--explain", help="Print every field with what it means.")
    ] = False,
) -> None:
    """Validate a run without training: all faults at once, of model, device and images too."""
    from confrere_deploy.check import checked
    from confrere_deploy.explain import explained

    run = checked(run_file, changes or (), engine=engine)
    if explain:
        console.print(explained(run), markup=False, highlight=False, soft_wrap=True)
    if run.privacy is not None:
        _tell_privacy(run, run_file.parent)
    console.print(f"{run_file}: run '{run.name}' is sound.", markup=False, soft_wrap=True)


@app.command()
def methods() -> None:
    """List the self-supervised methods."""
    from confrere_common.method import METHODS

    _list(METHODS)


@app.command()
def tasks() -> None:
    """List the tasks that an encoder can be fine-tuned for."""
    from confrere_common.task import TASKS

    _list(TASKS)


@app.command()
def encoders() -> None:
    """List the encoders."""
    from confrere_common.encoder import ENCODERS

    _list(ENCODERS)


@app.command()
def rules() -> None:
    """List the rules that join updates, the server steps, and what sites do beside (mixings)."""
    from confrere_common.mixing import MIXINGS
    from confrere_server.rule import RULES
    from confrere_server.step import STEPS

    _list(RULES)
    _list(STEPS)
    _list(MIXINGS)


@app.command()
def embed(
    encoder: Annotated[Path, typer.Argument(help="encoder.safetensors, its card beside it.")],
    images: Annotated[
        list[Path],
        typer.Argument(help="Image files, folders of them, or one prepared data set (2-D or 3-D)."),
    ],
    out: Annotated[Path, typer.Option(help="Parquet file to write.")] = Path("features.parquet"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N.")] = "auto",
) -> None:
    """Turn images into features: one row an image, columns path (or key) and features."""
    from confrere_client.embed import load, write_features
    from confrere_client.ingest.keeping.dataset import is_dataset

    embedder = load(encoder, device=device)
    if len(images) == 1 and is_dataset(images[0]):
        keys, features = embedder.embed_prepared(images[0])
        write_features(out, keys, features, called="key")
    else:
        files, features = embedder.embed(*images)
        write_features(out, files, features)
    console.print(
        f"{out}: {len(features)} images, {features.shape[1]} features each.", markup=False
    )


def main() -> None:
    """Run the command line; a fault is one message and exit code 2, an interruption 130."""
    start_logging()
    errors = Console(stderr=True)
    try:
        # Standalone, click would turn an interruption into "Aborted!" and say nothing of --resume.
        code = app(standalone_mode=False)
    except click.ClickException as fault:
        fault.show()
        raise SystemExit(fault.exit_code) from None
    except ConfrereError as fault:
        errors.print(str(fault), style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(2) from None
    except OSError as fault:
        # A full or read-only disk, far from any place that knows more.
        what = f"{fault.strerror or type(fault).__name__}: {fault.filename or 'a file'}"
        said = f"{what}. Finished rounds are saved; mend it, then add --resume."
        errors.print(said, style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(2) from None
    if code == INTERRUPTED:
        errors.print("stopped. Every finished round is saved: add --resume (and --out) to go on.")
    raise SystemExit(code or 0)


def _tell_privacy(run: "Run", folder: Path) -> None:
    from confrere_deploy.study import private_plan

    patients = private_plan.listed_patients(run, folder)
    for title, text in private_plan.rows(run, patients, private_plan.parameters_of(run)):
        console.print(
            f"{title}: {text.rstrip(chr(46))}.", markup=False, highlight=False, soft_wrap=True
        )


def _list(family: Family[Any]) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    captions: Mapping[str, str] = {name: family.caption(name) for name in family.names()}
    for name, caption in captions.items():
        table.add_row(name, caption)
    console.print(f"{family.noun}s", style="bold")
    console.print(table)


if __name__ == "__main__":
    main()

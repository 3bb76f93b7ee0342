"""Ask a fine-tuned network about own images: confrere predict RELEASE SOURCE; nothing leaves."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from confrere_deploy.commands.bars import bars

if TYPE_CHECKING:
    from confrere_client.predict.predict import Predicted

# Names and reasons come from outside: nothing in them is markup.
console = Console(soft_wrap=True, highlight=False, markup=False)

INTERRUPTED = 130


def predict(  # noqa: PLR0913  (an option each)
    release: Annotated[
        Path,
        typer.Argument(help="A release of a fine-tuning, or the folder that finetune wrote."),
    ],
    source: Annotated[
        Path,
        typer.Argument(
            help="The images: a prepared data set, a table (.csv, .parquet) with a column path, a "
            "folder, an .npz; for neighbours also an index.parquet that was made before."
        ),
    ],
    out: Annotated[Path, typer.Option(help="A new folder for the answers.")],
    form: Annotated[str, typer.Option("--format", help="Of the tables: csv or parquet.")] = "csv",
    knobs: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="key=value",
            help="How SOURCE is read: path_column=file, slices=axial, modality=\\[ct], ...",
        ),
    ] = None,
    query: Annotated[
        Path | None,
        typer.Option(help="Retrieval: images whose like is looked for in SOURCE."),
    ] = None,
    neighbours: Annotated[int, typer.Option(help="How many, for each of --query.", min=1)] = 5,
    normal: Annotated[
        Path | None,
        typer.Option(help="Anomaly: your own normal images, for scores that need such."),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(help="The signer's .pub: refuse a release that anybody else signed."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N.")] = "auto",
) -> None:
    """Let a fine-tuned network answer for your own images; the answers stay in --out.

    What --out holds then, beside answers.csv (a row an image):

    classification  in answers.csv: the probability of each class
    segmentation    masks/: NIfTI of volumes, PNG of pictures, at their size
    detection       boxes.csv: class, score, corners in the image's pixels
    anomaly         maps/: how odd each place is; in answers.csv: scores
    retrieval       index.parquet; with --query also neighbours.csv

    From labels to answers:

    confrere finetune task.yaml --encoder encoder.safetensors --out tuned
    confrere export tuned --out release --key export.key
    confrere predict release SOURCE --out answers --key export.pub

    RELEASE is a release of a fine-tuning, or the folder that finetune wrote.
    One in which a file was altered is refused.

    SOURCE is a prepared data set, a table (.csv, .parquet) with a column
    path, a folder, or an .npz; for neighbours also an index.parquet that was
    made before. Prepare volumes and DICOM first (confrere client prepare),
    with the options that the release's card tells. Images are called as in
    SOURCE: by key in a prepared data set, by path in a folder or table.

    Nothing is sent anywhere. For research: this is no medical device.
    """
    # Imported here: torch takes seconds to load, and --help should not.
    from confrere_client.predict.desk import Order
    from confrere_client.predict.predict import predict as ask
    from confrere_common.network import load_task
    from confrere_deploy.commands.knobs import knobs_in
    from confrere_deploy.release.verify import verify

    order = Order(
        source=source, out=out, knobs=knobs_in(knobs or ()), form=form, normal=normal,
        query=query, neighbours=neighbours,
    )  # fmt: skip
    if key is not None:
        console.print(verify(release if release.is_dir() else release.parent, key))
    network = load_task(release)
    try:
        with bars(console) as watch:
            done = ask(network, order, device=device, watch=watch)
    except KeyboardInterrupt:
        console.print(f"stopped: what stands in {out} is not whole. Remove it, and ask again.")
        raise SystemExit(INTERRUPTED) from None  # an Exit would be told how to resume a run
    _say(done, out)


def _say(done: "Predicted", out: Path) -> None:
    from confrere_client.predict.predict import FILE

    console.print(f"{out}: {done.task} of {done.answered} images: {', '.join(done.files)}.")
    if done.recoloured:
        console.print(
            f"{done.recoloured} of them have other colours than the network was trained on: grey "
            "was given as colour, or colour as grey."
        )
    if done.skipped:
        console.print(f"{len(done.skipped)} images were left out: {out / 'skipped.csv'} says why.")
    console.print(
        f"Answers about patients: they stay in this folder, nothing was sent. {FILE} says what "
        "made them. For research: no medical device."
    )

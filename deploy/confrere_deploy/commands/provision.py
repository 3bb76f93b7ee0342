"""Try a federation on one machine: confrere provision ..."""

import signal
import time
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(name="provision", no_args_is_help=True, help="Set up a federation to try it out.")
console = Console(soft_wrap=True, highlight=False, markup=False)


@app.callback()
def provision() -> None:
    """Set up a federation to try it out."""


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--dir", "-d", help="A new folder for it.")] = Path(
        "demo"
    ),
    sites: Annotated[int, typer.Option(help="Hospitals.", min=2, max=50)] = 3,
    data: Annotated[str, typer.Option(help="phantom, or a table, folder or .npz.")] = "phantom",
    knobs: Annotated[
        list[str] | None, typer.Option("--set", metavar="key=value", help="A knob of the source.")
    ] = None,
    port: Annotated[int, typer.Option(help="The public port; 0 takes a free one.")] = 0,
) -> None:
    """Start a coordinator and hospitals on this machine, with TLS; Ctrl-C ends them all."""
    from confrere_deploy.commands.knobs import knobs_in
    from confrere_deploy.federation.provision import phantom, provision, running, table

    def stop(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    given = knobs_in(knobs or ())
    source = phantom(sites) if data == "phantom" else table(Path(data), given, sites)
    with running(provision(folder, source, port=port, say=console.print)) as found:
        here = found.coordinator
        name = found.sites[0]
        console.print(
            f"\nAll are running; logs are {found.folder}/*.log. In another terminal:\n"
            f"  confrere server submit configs/demo.yaml --dir {here}\n"
            f"  confrere client status --dir {found.site(name)}     (and the others)\n"
            f"  confrere client approve demo --dir {found.site(name)}\n"
            f"  confrere server status demo --follow --dir {here}\n"
            f"  confrere server fetch demo --dir {here}\n"
            "Ctrl-C here ends them all.",
        )
        while all(process.poll() is None for process in found.processes.values()):
            time.sleep(1)
        console.print("a process ended by itself: see the logs.", style="red")

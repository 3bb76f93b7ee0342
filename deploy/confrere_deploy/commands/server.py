"""The coordinator's commands: confrere server ..."""

import getpass
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from confrere_common.errors import ConfigError

app = typer.Typer(
    name="server",
    no_args_is_help=True,
    help="Coordinate a federation: make a workspace, invite hospitals, serve, run studies.",
)
audit_app = typer.Typer(no_args_is_help=True, help="The signed log of everything that happened.")
rollover_app = typer.Typer(no_args_is_help=True, help="Replace the root certificate, in 3 steps.")
app.add_typer(audit_app, name="audit")
app.add_typer(rollover_app, name="rollover")
# Names and reasons come from outside: nothing in them is markup.
console = Console(soft_wrap=True, highlight=False, markup=False)

Dir = Annotated[Path, typer.Option("--dir", "-d", help="The workspace.", envvar="CONFRERE_SERVER")]
HERE = Path()


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The new workspace.")],
    name: Annotated[str, typer.Option(help="What the study is called, e.g. derm-2026.")],
    address: Annotated[
        str, typer.Option(help="HOST:PORT under which hospitals reach this server.")
    ],
) -> None:
    """Make a workspace: certificate authority, server certificate, signing key, empty roster."""
    from confrere_server.membership.workspace import init as make

    made = make(folder, name, address)
    console.print(f"{made.folder}: workspace of study '{name}', to be reached at {address}.")
    console.print(
        f"Move {made.ca / 'root.key'} to a safe place off this machine: nothing needs it daily.\n"
        f"Next: confrere server invite SITE --dir {folder}, then "
        f"confrere server start --dir {folder}",
    )


@app.command()
def invite(
    site: Annotated[str, typer.Argument(help="A short name: letters, digits, dashes.")],
    folder: Dir = HERE,
    hours: Annotated[float, typer.Option(help="For how long the token is good.")] = 72,
    again: Annotated[bool, typer.Option("--again", help="For a site that is active.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write it to a file for the hospital.")] = None,
) -> None:
    """Make a one-time token with which a hospital joins."""
    from confrere_common.pki.keys import write_secret
    from confrere_server.membership.roster import invite as make
    from confrere_server.membership.workspace import open_workspace

    if out is not None and out.exists():
        # Before the token is made, since a new one makes the last one void.
        raise ConfigError(["exists already, and no token is ever overwritten."], str(out))
    token = make(open_workspace(folder), site, hours=hours, again=again)
    if out is None:
        # Alone on standard output: it is copied, or piped.
        print(token)  # noqa: T201
        return
    write_secret(out, token.encode())
    console.print(
        f"{out}: send it to '{site}' by a way you trust; it is good once, for {hours:g} h."
    )


@app.command()
def sites(folder: Dir = HERE) -> None:
    """List the sites and how they stand."""
    from confrere_deploy.federation.tables import sites_table
    from confrere_server.membership.roster import read_roster
    from confrere_server.membership.workspace import open_workspace

    console.print(sites_table(read_roster(open_workspace(folder))))


@app.command()
def revoke(
    site: str,
    folder: Dir = HERE,
    why: Annotated[str, typer.Option(help="Kept in roster and audit log.")] = "",
) -> None:
    """Let a site in no more, from now on; no other site is touched."""
    from confrere_server.membership.roster import revoke as do
    from confrere_server.membership.workspace import open_workspace

    do(open_workspace(folder), site, why)
    console.print(f"'{site}' is revoked: its certificate gets nothing any more.")


@app.command()
def renew(folder: Dir = HERE) -> None:
    """Renew the server's certificate if it is due (a running server does so by itself)."""
    from confrere_server.membership.workspace import open_workspace, renew_server

    done = renew_server(open_workspace(folder))
    console.print("renewed." if done else "not due yet; nothing was changed.")


@rollover_app.command("begin")
def rollover_begin(folder: Dir = HERE) -> None:
    """Make the next root; sites learn of it as they renew. Needs ca/root.key back in its place."""
    from confrere_server.membership.rollover import begin
    from confrere_server.membership.workspace import open_workspace

    begin(open_workspace(folder))
    console.print("begun: once every site has renewed, go on with 'rollover switch'.")


@rollover_app.command("switch")
def rollover_switch(folder: Dir = HERE) -> None:
    """Issue under the next root; says which sites do not know it yet."""
    from confrere_server.membership.rollover import switch
    from confrere_server.membership.workspace import open_workspace

    switch(open_workspace(folder))
    console.print("switched: once every site has renewed again, end with 'rollover finish'.")


@rollover_app.command("finish")
def rollover_finish(folder: Dir = HERE) -> None:
    """Trust the old root no more; says which sites still need it."""
    from confrere_server.membership.rollover import finish
    from confrere_server.membership.workspace import open_workspace

    finish(open_workspace(folder))
    console.print("finished: move the new ca/root.key to a safe place off this machine.")


@app.command()
def roster(folder: Dir = HERE) -> None:
    """Check the roster's signature and print its hash, which every site was told."""
    from confrere_server.membership.roster import read_roster
    from confrere_server.membership.workspace import open_workspace

    found = read_roster(open_workspace(folder))
    console.print(f"{found.hash}  {len(found.sites)} sites, signature sound.")


@app.command()
def start(
    folder: Dir = HERE,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens.")] = False,
) -> None:
    """Run the server until Ctrl-C or SIGTERM; runs that were cut off go on by themselves."""
    import logging

    from confrere_common.log import start_logging
    from confrere_server.membership.workspace import open_workspace
    from confrere_server.start import start as serve

    workspace = open_workspace(folder)
    start_logging(logging.INFO if verbose else logging.WARNING)
    console.print(f"study '{workspace.config.study}' on {workspace.listen}; Ctrl-C stops.")
    serve(workspace)


@app.command()
def health(folder: Dir = HERE) -> None:
    """Ask the running server whether it serves; exit code 1 when it does not."""
    from confrere_server.watch.health import is_healthy

    well = is_healthy(folder)
    console.print("serving" if well else "not serving")
    raise typer.Exit(0 if well else 1)


@app.command()
def doctor(folder: Dir = HERE) -> None:
    """Look at everything that the server needs; each finding with its remedy."""
    from confrere_deploy.federation.doctor import report, server_findings
    from confrere_server.membership.workspace import open_workspace

    raise typer.Exit(report(server_findings(open_workspace(folder)), console))


@app.command("observer-token")
def observer_token(
    folder: Dir = HERE,
    new: Annotated[bool, typer.Option("--new", help="Make another; the old one ends.")] = False,
) -> None:
    """Print the token of those who may watch runs, and do nothing else."""
    from confrere_server.membership.workspace import open_workspace
    from confrere_server.watch.observe import observer_token as token

    workspace = open_workspace(folder)
    # Alone on standard output: it is copied, or piped.
    print(token(workspace, new=new))  # noqa: T201


@app.command()
def submit(
    run_file: Annotated[Path, typer.Argument(help="The run's YAML file.")],
    folder: Dir = HERE,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="a.b=c", help="Change one value.")
    ] = None,
    warm_start: Annotated[
        Path | None, typer.Option(help="encoder.safetensors to start from.")
    ] = None,
) -> None:
    """Queue a run; hospitals see it as a plan and decide."""
    from confrere_common.loading import read_run
    from confrere_common.validated import told_choice
    from confrere_deploy.families import ALL_FAMILIES
    from confrere_deploy.federation.submitting import (
        must_be_federable,
        signing_roster,
        started,
        warm_weights,
    )
    from confrere_server.membership.roster import read_roster
    from confrere_server.membership.workspace import open_workspace
    from confrere_server.runs.queue import submit as queue

    workspace = open_workspace(folder)
    run = read_run(run_file, changes or (), ALL_FAMILIES)
    run, warm_start = started(run, run_file.parent, warm_start)
    hidden = run.secure_aggregation is not None
    roster = signing_roster(read_roster(workspace)) if hidden else {}
    must_be_federable(run, roster)
    made = queue(workspace.runs, run, warm=warm_weights(run, warm_start), roster=roster)
    order = made.order
    workspace.chain().append(
        "run submitted", run=order.id, digest=order.digest, by=getpass.getuser()
    )
    if said := told_choice(run):
        console.print(said, soft_wrap=True)
    console.print(
        f"{order.id}: queued. Follow it: confrere server status {order.id} --dir {folder} --follow"
    )


@app.command()
def runs(folder: Dir = HERE) -> None:
    """List all runs, newest last."""
    from confrere_deploy.federation.tables import runs_table
    from confrere_server.membership.workspace import open_workspace
    from confrere_server.runs.queue import all_runs

    console.print(runs_table(all_runs(open_workspace(folder).runs)))


@app.command()
def status(
    run: Annotated[str, typer.Argument(help="A run's id, or how it begins.")],
    folder: Dir = HERE,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the run ends.")] = False,
) -> None:
    """Show a run: its round, who is in, who is late, what it cost so far, when it will end."""
    from confrere_deploy.federation.tables import run_panel
    from confrere_server.membership.workspace import open_workspace
    from confrere_server.runs.queue import OPEN, find_run

    found = find_run(open_workspace(folder).runs, run)
    if not follow:
        console.print(run_panel(found))
        return
    with Live(run_panel(found), console=console, refresh_per_second=2) as live:
        while found.standing.state in OPEN:
            time.sleep(0.5)
            live.update(run_panel(found))


@app.command()
def stop(run: str, folder: Dir = HERE) -> None:
    """Stop a run; its finished rounds are kept, and sites stop training within seconds."""
    _wish(folder, run, "stop")


@app.command()
def resume(run: str, folder: Dir = HERE) -> None:
    """Go on with a run that was stopped or has failed, from its last finished round."""
    _wish(folder, run, "resume")


@app.command()
def clear(run: str, site: str, folder: Dir = HERE) -> None:
    """Let a suspended site take part in a run again; its earlier offences are forgotten."""
    from confrere_common.errors import ConfigError, unknown
    from confrere_server.membership.roster import read_roster
    from confrere_server.membership.workspace import open_workspace
    from confrere_server.runs.queue import find_run

    workspace = open_workspace(folder)
    known = read_roster(workspace).sites
    if site not in known:
        raise ConfigError([unknown("site", site, known)], "the command")
    found = find_run(workspace.runs, run)
    found.clear(site)
    workspace.chain().append(
        "clearance asked", run=found.path.name, site=site, by=getpass.getuser()
    )
    console.print(f"{site} is asked again from the next round of {found.path.name} on.")


@app.command()
def fetch(
    run: str,
    folder: Dir = HERE,
    out: Annotated[Path | None, typer.Option(help="Where to; default ./RUN.")] = None,
) -> None:
    """Copy a finished run's encoder, card, report and signature."""
    from confrere_deploy.federation.fetching import fetch as do
    from confrere_server.membership.workspace import open_workspace
    from confrere_server.runs.queue import find_run

    workspace = open_workspace(folder)
    found = find_run(workspace.runs, run)
    target = out or Path(found.path.name)
    for path in do(workspace, found, target):
        console.print(str(path))


@app.command()
def logs(run: str, folder: Dir = HERE) -> None:
    """Print what the audit log says of a run."""
    from confrere_deploy.federation.fetching import rows_of
    from confrere_server.membership.workspace import open_workspace
    from confrere_server.runs.queue import find_run

    workspace = open_workspace(folder)
    for line in rows_of(workspace.audit, find_run(workspace.runs, run).path.name):
        console.print(line)


@audit_app.command("verify")
def audit_verify(
    folder: Dir = HERE,
    witness: Annotated[
        Path | None,
        typer.Option(help="A head that somebody else kept, as JSON; or a release.json."),
    ] = None,
) -> None:
    """Check the whole audit log: edits, deletions, reordering; with a witness, a cut end too."""
    from confrere_deploy.federation.fetching import checked, witness_in
    from confrere_server.membership.workspace import open_workspace

    workspace = open_workspace(folder)
    seen = witness_in(witness) if witness is not None else {}
    say_checked(checked(workspace.audit, workspace.signing_key().public_key(), seen))


@audit_app.command("heads")
def audit_heads(folder: Dir = HERE) -> None:
    """Print what each site last said of its own audit log: a witness for the hospital."""
    from confrere_deploy.federation.fetching import heads_told
    from confrere_server.membership.workspace import open_workspace

    for line in heads_told(open_workspace(folder).audit):
        console.print(line)


def say_checked(found: object) -> None:
    """Print how a log stands; exit code 1 when something is wrong with it."""
    from confrere_common.chain import Checked

    if not isinstance(found, Checked):
        return
    for fault in found.faults:
        console.print(f"the log {fault}", style="red")
    if not found.faults:
        console.print(f"{found.length} rows, whole and in order; head {found.head}")
    raise typer.Exit(1 if found.faults else 0)


def _wish(folder: Path, run: str, wish: str) -> None:
    from confrere_server.membership.workspace import open_workspace
    from confrere_server.runs.queue import OPEN, find_run

    workspace = open_workspace(folder)
    found = find_run(workspace.runs, run)
    state = found.standing.state
    if (wish == "stop") != (state in OPEN):
        raise ConfigError([f"it is {state}: there is nothing to {wish}."], found.path.name)
    workspace.chain().append(f"{wish} asked for", run=found.path.name, by=getpass.getuser())
    found.ask_for("stop" if wish == "stop" else "resume")
    console.print(f"{found.path.name}: the server takes note within a second.")

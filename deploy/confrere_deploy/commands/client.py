"""The hospital's commands: confrere client ..."""

import getpass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from confrere_common.errors import ConfigError
from confrere_deploy.commands.prepare import prepare

app = typer.Typer(
    name="client",
    no_args_is_help=True,
    help="Take part as a hospital: join, lend data, set the policy, approve plans, run the daemon.",
)
data_app = typer.Typer(no_args_is_help=True, help="The data sets that this site lends.")
audit_app = typer.Typer(no_args_is_help=True, help="The signed log of all that came and left.")
app.add_typer(data_app, name="data")
app.add_typer(audit_app, name="audit")
app.command()(prepare)
# Names and reasons come from outside: nothing in them is markup.
console = Console(soft_wrap=True, highlight=False, markup=False)

Dir = Annotated[
    Path, typer.Option("--dir", "-d", help="The site's folder.", envvar="CONFRERE_SITE")
]
HERE = Path()


@app.command()
def join(
    token: Annotated[str, typer.Argument(help="The token, or a file that holds it.")],
    folder: Dir = HERE,
) -> None:
    """Join a study: keys are made here and never leave; the connection is tried at once."""
    from confrere_client.hospital.join import join as do
    from confrere_client.hospital.policy import Policy, policy_text
    from confrere_common.storage import atomic_write

    agreed = do(token, folder)
    policy = folder / "policy.yaml"
    if not policy.exists():
        atomic_write(policy, policy_text(Policy()).encode())
    console.print(
        f"'{agreed.site}' has joined study '{agreed.study}' at {agreed.server}; the connection "
        f"works.\nserver known by root {agreed.root}\nown certificate      "
        f"{agreed.fingerprint}, renewed by the daemon before {agreed.expires:%Y-%m-%d}\n"
        f"roster               {agreed.roster}\n"
        f"No run goes ahead before somebody here approves it: {policy} says what may ever be.\n"
        f"Next: confrere client data add NAME PATH --dir {folder}, then "
        f"confrere client start --dir {folder}",
    )


@data_app.command("add")
def data_add(  # noqa: PLR0913  (an option each)
    name: Annotated[str, typer.Argument(help="What runs call it; this name is said outside.")],
    path: Annotated[str, typer.Argument(help="A folder, .npz, .csv or .parquet of images.")] = "",
    folder: Dir = HERE,
    modality: Annotated[str | None, typer.Option(help="cxr, ct, mri, histology, ...")] = None,
    source: Annotated[str, typer.Option(help="How it is read; auto finds out.")] = "auto",
    only_site: Annotated[
        str | None, typer.Option(help="Only rows of this acquisition site.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="In place of that name's.")] = False,
    one_image_per_patient: Annotated[
        bool,
        typer.Option(
            "--one-image-per-patient", help="Vouch for it, where the data name no patients."
        ),
    ] = False,
    knobs: Annotated[
        list[str] | None, typer.Option("--set", metavar="key=value", help="A source's own knob.")
    ] = None,
) -> None:
    """Register a local data set; nothing about it leaves but its name and number of images."""
    from confrere_client.hospital.registry import add
    from confrere_client.hospital.site import open_site
    from confrere_deploy.commands.knobs import knobs_in

    site = open_site(folder)
    made = add(
        folder, name, path, modality=modality, source=source, only_site=only_site,
        replace=replace, one_image_per_patient=one_image_per_patient, knobs=knobs_in(knobs or ()),
    )  # fmt: skip
    site.chain().append("data registered", name=name, images=made.images, by=getpass.getuser())
    console.print(f"'{name}': {made.images} images of {made.patients} patients.")
    if made.only_scored:
        console.print(
            "All are marked 'test': models are scored on them, none is trained on them. Anomaly "
            "and retrieval cannot be scored here: they compare with own images learned from."
        )


@data_app.command("list")
def data_list(folder: Dir = HERE) -> None:
    """List the data sets that runs may ask for."""
    from confrere_client.hospital.registry import registered
    from confrere_deploy.federation.tables import data_table

    console.print(data_table(registered(folder)))


@app.command()
def policy(
    folder: Dir = HERE,
    edit: Annotated[
        bool, typer.Option("--edit", help="Open it in $EDITOR, then check it.")
    ] = False,
) -> None:
    """Show the policy, or edit and check it; the daemon follows a change within seconds."""
    import click

    from confrere_client.hospital.policy import read_policy
    from confrere_client.hospital.site import open_site

    site = open_site(folder)
    if edit:
        click.edit(filename=str(site.policy))
        site.chain().append("policy edited", by=getpass.getuser())
    read_policy(site.policy)
    console.print(site.policy.read_text())


@app.command()
def start(
    folder: Dir = HERE,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Log warnings only.")] = False,
) -> None:
    """Run the daemon until Ctrl-C or SIGTERM; it only ever connects outwards."""
    import logging

    from confrere_client.daemon.start import start as serve
    from confrere_client.hospital.policy import read_policy
    from confrere_client.hospital.site import open_site
    from confrere_common.log import start_logging

    site = open_site(folder)
    read_policy(site.policy)
    start_logging(logging.WARNING if quiet else logging.INFO)
    console.print(f"'{site.config.site}' of study '{site.config.study}'; Ctrl-C stops.")
    serve(site)


@app.command()
def status(folder: Dir = HERE) -> None:
    """Show the daemon, what it is at, and every plan that came."""
    from confrere_client.hospital.site import open_site
    from confrere_deploy.federation.tables import site_panels

    for panel in site_panels(open_site(folder)):
        console.print(panel)


@app.command()
def plan(run: str, folder: Dir = HERE) -> None:
    """Show one plan whole: what would be trained on what, and what would leave."""
    from confrere_client.hospital.site import open_site
    from confrere_deploy.federation.tables import plan_table

    console.print(plan_table(open_site(folder), _run_id(folder, run)))


@app.command()
def approve(
    run: str,
    folder: Dir = HERE,
    why: Annotated[str, typer.Option(help="Kept with the decision.")] = "",
) -> None:
    """Approve a plan: this very run, with this very code, and nothing else."""
    _decide(folder, run, "approve", why)


@app.command()
def deny(
    run: str,
    folder: Dir = HERE,
    why: Annotated[str, typer.Option(help="Kept with the decision; it stays here.")] = "",
) -> None:
    """Deny a plan, or take an approval back: training stops within seconds."""
    _decide(folder, run, "deny", why)


@app.command()
def pause(folder: Dir = HERE) -> None:
    """Take part in nothing until unpaused; a round that is under way is given up."""
    from confrere_client.hospital.site import open_site

    site = open_site(folder)
    (site.folder / "paused").touch()
    site.chain().append("paused", by=getpass.getuser())
    console.print("paused: the daemon declines everything until 'confrere client unpause'.")


@app.command()
def unpause(folder: Dir = HERE) -> None:
    """Take part again."""
    from confrere_client.hospital.site import open_site

    site = open_site(folder)
    (site.folder / "paused").unlink(missing_ok=True)
    site.chain().append("unpaused", by=getpass.getuser())
    console.print("the daemon takes part again.")


@app.command()
def ledger(
    folder: Dir = HERE,
    out: Annotated[Path | None, typer.Option(help="Write all rows as CSV.")] = None,
) -> None:
    """Verify the privacy ledger; show what each data set's patients have spent and have left."""
    from confrere_client.hospital.site import open_site
    from confrere_common.storage import atomic_write
    from confrere_deploy.federation.spending import ledger_of, ledger_table

    site = open_site(folder)
    if out is not None:
        atomic_write(out, ledger_of(site).as_csv().encode())
    console.print(ledger_table(site))


@app.command()
def mend(folder: Dir = HERE) -> None:
    """Write damaged notes of masked rounds anew: all that may have left counts as having left."""
    from confrere_client.hospital.site import open_site
    from confrere_client.masked.mend import mend as do

    for sentence in do(open_site(folder)) or ("No note of a masked round is damaged.",):
        console.print(sentence)


@audit_app.command("show")
def audit_show(
    folder: Dir = HERE,
    last: Annotated[int, typer.Option(help="Rows from the end.")] = 30,
) -> None:
    """Print what came, what was decided, and what left."""
    from confrere_client.hospital.site import open_site
    from confrere_deploy.federation.fetching import rows_of

    for line in rows_of(open_site(folder).audit, "")[-last:]:
        console.print(line)


@audit_app.command("verify")
def audit_verify(
    folder: Dir = HERE,
    witness: Annotated[
        Path | None, typer.Option(help="A head that the coordinator kept: JSON, length and head.")
    ] = None,
) -> None:
    """Check the whole audit log: edits, deletions, reordering; its end against a witness."""
    from confrere_client.hospital.site import open_site
    from confrere_deploy.commands.server import say_checked
    from confrere_deploy.federation.fetching import checked, witness_in

    site = open_site(folder)
    seen = witness_in(witness) if witness is not None else {}
    say_checked(checked(site.audit, site.signing_key().public_key(), seen))


@app.command()
def doctor(folder: Dir = HERE) -> None:
    """Look at everything that a round needs, a dry round among it; each finding with its remedy."""
    from confrere_client.hospital.site import open_site
    from confrere_deploy.federation.doctor import client_findings, report

    raise typer.Exit(report(client_findings(open_site(folder)), console))


@app.command()
def renew(folder: Dir = HERE) -> None:
    """Renew the site's certificate if it is due (a running daemon does so by itself)."""
    from confrere_client.hospital.join import renew_if_due

    console.print("renewed." if renew_if_due(folder) else "not due yet; nothing was changed.")


def _decide(folder: Path, run: str, decision: str, why: str) -> None:
    from confrere_client.hospital.plans import decide
    from confrere_client.hospital.site import open_site

    site = open_site(folder)
    run_id = _run_id(folder, run)
    made = decide(
        folder, run_id, "approve" if decision == "approve" else "deny", getpass.getuser(), why
    )
    site.chain().append(
        "plan approved" if decision == "approve" else "plan denied",
        run=run_id, digest=made.digest, by=made.who,
    )  # fmt: skip
    done = "approved" if decision == "approve" else "denied"
    console.print(f"{run_id}: {done} by {made.who}, plan {made.digest[:16]}.")


def _run_id(folder: Path, run: str) -> str:
    """Return the id of the plan that *run* begins, so that nobody must type it whole."""
    from confrere_client.hospital.plans import list_plans
    from confrere_common.errors import unknown

    known = [plan.proposal.run_id for plan in list_plans(folder)]
    fitting = [name for name in known if name == run] or [n for n in known if n.startswith(run)]
    if len(fitting) != 1:
        raise ConfigError([unknown("plan", run, known)], str(folder))
    return fitting[0]

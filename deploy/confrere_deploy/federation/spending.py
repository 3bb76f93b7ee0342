"""What private runs have spent, for the hospital's eyes."""

from rich.table import Table

from confrere_client.hospital.policy import read_policy
from confrere_client.hospital.registry import registered
from confrere_client.hospital.site import SiteFolder
from confrere_client.privacy.budget import Ledger


def ledger_of(site: SiteFolder) -> Ledger:
    """Return a site's ledger."""
    return Ledger(path=site.ledger, witness=site.ledger_witness)


def ledger_table(site: SiteFolder) -> Table:
    """Return spent and left for each data set; PrivacyError when the ledger was tampered with."""
    book, policy = ledger_of(site), read_policy(site.policy)
    rows = book.rows()
    table = Table(box=None, pad_edge=False, title=f"{len(rows)} rows, the chain is whole")
    for heading in ("data set", "epsilon spent", "budget", "left", "at delta"):
        table.add_column(heading, justify="left" if heading == "data set" else "right")
    for name in sorted(registered(site.folder)):
        spent = book.spent(name, policy.budget_delta) if rows else 0.0
        left = max(0.0, policy.budget_epsilon - spent)
        told = (f"{spent:.3f}", f"{policy.budget_epsilon:g}", f"{left:.3f}")
        table.add_row(name, *told, f"{policy.budget_delta:g}")
    return table

"""Does joining pay: the sentences and the drawing of what each site gained or lost."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from confrere_deploy.report.schema import Joining
from confrere_deploy.report.svg import ALARM, BLUE, GREY, draw
from confrere_deploy.report.words import counted, listed, shorten, spoken

if TYPE_CHECKING:
    from matplotlib import figure as canvas
    from matplotlib.axes import Axes

SITES_DRAWN = 16
NAMED = 12
"""Sites that a sentence names at most."""


def verdict(joining: Joining | None) -> list[str]:
    """Say for how many sites joining paid, and for whom it did not; nothing where none is told."""
    if joining is None:
        return []
    sites, losing = len(joining.gains), len(joining.losing)
    said = (
        f"On its own test patients, {losing} of {counted(sites, 'site')} lost by joining"
        f"{_named(joining.losing)}, {len(joining.surely_losing)} surely"
        f"{_named(joining.surely_losing)}; {len(joining.surely_gaining)} surely gained. Surely: "
        "the whole interval of the paired difference lies on one side of 0."
    )
    if sites >= 10:
        said += " Of twenty sites where nothing changed, one would look sure by chance."
    return [said]


def _named(sites: Sequence[str]) -> str:
    if not sites:
        return ""
    more = len(sites) - NAMED
    named = [*sites[:NAMED], *([f"{more} more"] if more > 0 else [])]
    return f" ({listed(named)})"


def drawing(joining: Joining | None, measure: str) -> str:
    """Draw each site's paired difference; empty for one site, and for too many to be read."""
    if joining is None or not 1 < len(joining.gains) <= SITES_DRAWN:
        return ""
    sites = ordered(joining)
    alt = f"{measure}, federated less each site alone: " + ", ".join(
        f"{site} {spoken(joining.gains[site], sign=True)}" for site in sites
    )

    def paint(page: "canvas.Figure") -> None:
        axes = page.subplots()
        differences(axes, joining, sites)
        axes.set_yticks(range(len(sites)), [shorten(site) for site in sites])
        axes.set_title(f"{measure}: federated less alone")

    return draw("joining", alt, (6.4, 0.9 + 0.3 * len(sites)), paint)


def ordered(joining: Joining) -> list[str]:
    """Return the sites, who gains least first."""
    return sorted(joining.gains, key=lambda site: joining.gains[site].mean)


def differences(axes: "Axes", joining: Joining, sites: Sequence[str]) -> None:
    """Put one row for each site: a dot and its interval about a line at 0."""
    axes.axvline(0, color=GREY, linewidth=1, linestyle="--")
    for row, site in enumerate(sites):
        gain = joining.gains[site]
        colour = ALARM if site in joining.surely_losing else BLUE
        axes.plot([gain.low, gain.high], [row, row], color=colour, linewidth=2)
        axes.plot([gain.mean], [row], "o", color=colour)
    axes.set_ylim(-0.6, len(sites) - 0.4)

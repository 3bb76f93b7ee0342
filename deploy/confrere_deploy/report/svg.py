"""A drawing as inline SVG: the same bytes for the same figures, legible in light and dark."""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from confrere_common.errors import ConfrereError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1f2a37", "#66717f", "#e2e7ec"
"""Colours that the page's style sheet replaces, so that they follow its light or dark theme."""
THEMED = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)"}

ALARM = "#d55e00"
BLUE = "#0072b2"
GREY = "#9aa3ad"
HUES = (BLUE, "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#8a6d1d")
"""Colours that the colour-blind tell apart (Okabe and Ito, https://jfly.uni-koeln.de/color/);
vermilion is kept for alarms, and their yellow, pale on paper, gives way to a brown."""

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "confrere",
    "text.parse_math": False,
    "text.usetex": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GREY,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


def draw(
    name: str, alt: str, size_in: tuple[float, float], paint: Callable[["Figure"], None]
) -> str:
    """Return what *paint* puts on a figure as an SVG element that a page may hold.

    *name* keeps the element's identifiers apart from those of other drawings; *alt* tells the
    drawing to those who cannot see it.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # A name in a script that the measuring font lacks is drawn by the reader's own font.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=size_in, layout="constrained")
        paint(figure)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing, dpi=180)
    return _finished(buffer.getvalue(), name, alt)


def whole_rounds(axes: "Axes", rounds: Sequence[int]) -> None:
    """Count *rounds* on the x axis: no halves, and room about a lone one."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.set_xlabel("round")
    if rounds:
        margin = max(0.5, 0.02 * (max(rounds) - min(rounds)))
        axes.set_xlim(min(rounds) - margin, max(rounds) + margin)


def _finished(text: str, name: str, alt: str) -> str:
    """Cut the file's head, name it, make its identifiers its own, and hand colours to the page."""
    body = text[text.index("<svg") :]
    body = re.sub(r"<[^>]*>", lambda tag: _own(tag.group(), name), body)
    head = re.match(r"<svg[^>]*>", body)
    box = re.search(r'viewBox="([^"]*)"', body)
    if head is None or box is None:
        raise ConfrereError(f"matplotlib drew '{name}' without a viewBox: install one below 4")
    # A point of the drawing is 4/3 pixels on the page, so that letters have one size in all.
    width_px = float(box.group(1).split()[2]) * 4 / 3
    told = escape(alt)
    opening = f'<svg viewBox="{box.group(1)}" role="img" style="max-width: {width_px:.0f}px"'
    return f'{opening} aria-label="{told}"><title>{told}</title>{body[head.end() :]}'


def _own(tag: str, name: str) -> str:
    """Prefix the identifiers in a tag and replace its themed colours; text is not touched."""
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    tag = re.sub(r'href="#', f'href="#{name}-', tag)
    tag = tag.replace("url(#", f"url(#{name}-")
    for colour, theme in THEMED.items():
        tag = tag.replace(colour, theme)
    return tag

"""A matplotlib figure as SVG inside a page: text stays text, colours follow light and dark."""

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

WIDTH = 4.1  # inches; at 360 px a point is then about one pixel

SERIES = tuple(f"series-{number}" for number in range(1, 7))
NAMES = ("ink", "muted", "grid", "paper", *SERIES)
# Colours that no one would choose: each stands for the page's CSS variable of that name.
COLOURS = {name: f"#0a0b{number:02x}" for number, name in enumerate(NAMES)}

# After the axes, the series are told apart by their dashes too.
DASHES = ((None, None), (5, 1.5), (1.5, 1.2), (6, 1.5, 1.2, 1.5), (3, 1), (8, 2, 1, 1, 1, 2))


def style(index: int) -> dict[str, Any]:
    """Returns colour and dashes of the series of this number, as keywords of `Axes.plot`."""
    turn = index // len(SERIES)
    return {
        "color": COLOURS[SERIES[index % len(SERIES)]],
        "dashes": DASHES[(index + turn) % len(DASHES)],
    }


def render(
    name: str, title: str, paint: Callable[["Figure"], None], *, height: float = 3.4
) -> "Markup":
    """Returns a figure as an `<svg>` element.

    Args:
        name: of the figure, unlike those of all others on the page.
        title: what a screen reader says of it.
        paint: draws on an empty figure.
        height: in inches.
    """
    import matplotlib
    from markupsafe import Markup, escape
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_settings(name)):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        paint(figure)
        text = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    return Markup(_inlined(text.getvalue(), name, escape(title)))


def _settings(name: str) -> Any:
    ink, muted, grid = COLOURS["ink"], COLOURS["muted"], COLOURS["grid"]
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": name,  # ids are hashes: the same at every run, other in every figure
        "text.parse_math": False,  # the name of a class may hold a dollar sign
        "font.size": 10.5,
        "legend.fontsize": 10,
        "legend.frameon": False,
        "legend.handlelength": 2.6,
        "legend.columnspacing": 1.2,
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": muted,
        "axes.titlesize": 10.5,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": grid,
        "xtick.color": muted,
        "ytick.color": muted,
        "xtick.labelcolor": ink,
        "ytick.labelcolor": ink,
    }


def _inlined(text: str, name: str, title: str) -> str:
    """Takes off what only a file of its own needs, and what would leak into the page."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]*"', text)
    head = f'<svg {box[0] if box else ""} role="img" aria-label="{title}">'
    text = re.sub(r"<svg[^>]*>", lambda _: head, text, count=1)
    # Measured in the font that matplotlib brings, which is a wide one; shown in the reader's own.
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)
    text = re.sub(r'(?<=<g) id="[^"]*"', "", text)  # nothing refers to a group
    text = text.replace("xlink:href", "href")
    text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for variable, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{variable})")
    return re.sub(r"\s*\n\s*", " ", text)

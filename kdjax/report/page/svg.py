"""Matplotlib figures as inline SVG, with text as text and the colours of the page's theme."""

import io
import pathlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

WIDTH = 4.1  # inches; in a window of 360 px a point is then about one pixel

SERIES = tuple(f"series-{number}" for number in range(1, 11))
NAMES = ("ink", "muted", "grid", "paper", *SERIES)
# Placeholder colours; `render` replaces each by the CSS variable of the same name.
COLOURS = {name: f"#0a0b{number:02x}" for number, name in enumerate(NAMES)}

# Dashes distinguish the series for readers who cannot distinguish the colours.
DASHES = (
    (None, None),
    (5, 1.5),
    (1.5, 1.2),
    (6, 1.5, 1.2, 1.5),
    (3, 1),
    (8, 2, 1, 1, 1, 2),
    (10, 2),
    (4, 1, 4, 3),
    (1, 2.5),
    (9, 1.5, 3, 1.5),
)


def style(index: int) -> dict[str, Any]:
    """Returns colour and dashes of a series, as keywords of `Axes.plot`."""
    cycle = index // len(SERIES)
    return {
        "color": COLOURS[SERIES[index % len(SERIES)]],
        "dashes": DASHES[(index + cycle) % len(DASHES)],
    }


def render(
    name: str,
    title: str,
    paint: Callable[["Figure"], None],
    *,
    height: float = 3.4,
    width: float = WIDTH,
) -> "Markup":
    """Returns a figure as an `<svg>` element.

    Args:
        name: of the figure, unique on the page.
        title: the label for screen readers.
        paint: draws on an empty figure.
        height: in inches.
        width: in inches.
    """
    import matplotlib
    from markupsafe import Markup, escape
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_settings(name)):
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure)
        text = io.StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=no_metadata)
    return Markup(_to_inline(text.getvalue(), name, escape(title)))


def standalone(figure: str) -> str:
    """Returns a figure of `render` as the content of a file: with colours, on white paper.

    Args:
        figure: an `<svg>` element.
    """
    theme = (pathlib.Path(__file__).parent / "templates" / "style.css").read_text()
    light = dict(re.findall(r"--([\w-]+): (#\w+)", theme.partition("}")[0]))
    text = re.sub(r"var\(--([\w-]+)\)", lambda match: light[match[1]], figure)
    paper = f'<rect width="100%" height="100%" fill="{light["paper"]}"/>'
    head = r'<svg xmlns="http://www.w3.org/2000/svg"\1>' + paper
    return re.sub(r"^<svg([^>]*)>", head, text, count=1) + "\n"


def _settings(name: str) -> Any:
    ink, muted, grid = COLOURS["ink"], COLOURS["muted"], COLOURS["grid"]
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": name,  # makes the ids reproducible, and unique to the figure
        "text.parse_math": False,  # names of classes may contain dollar signs
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


def _to_inline(text: str, name: str, title: str) -> str:
    """Removes what only a separate file needs, and styles that would apply to the whole page."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]*"', text)
    head = f'<svg {box[0] if box else ""} role="img" aria-label="{title}">'
    text = re.sub(r"<svg[^>]*>", lambda _: head, text, count=1)
    # Matplotlib lays out the text with its own font, which is wide; system fonts fit into it.
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)
    text = re.sub(r'(?<=<g) id="[^"]*"', "", text)  # no reference uses the ids of groups
    text = text.replace("xlink:href", "href")
    text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for variable, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{variable})")
    return re.sub(r"\s*\n\s*", " ", text)

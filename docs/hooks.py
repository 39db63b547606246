"""MkDocs hooks: pages generated from the code, and equations as MathML.

Nothing is copied by hand: the configuration reference is read from `kdjax/config_base.py`,
`kdjax/models` and `kdjax/recipes.py`, the method reference from `kdjax.objectives.METHODS`, the
results from `experiments/results/`. Every page in `docs/` can also be read without a build: links
to results lead to the files in the repository, and are changed to the pages of the site at build
time. The functions that generate pages need neither MkDocs nor a network; `tests/test_docs.py`
calls them.
"""

import inspect
import pathlib
import posixpath
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from kdjax import config as configs
from kdjax import config_help
from kdjax.config_fields import RENAMED_FIELDS
from kdjax.models import MODELS, create
from kdjax.models.cost import cost
from kdjax.objectives import METHODS
from kdjax.recipes import RECIPES

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
# A page in `docs/` has this line; at build time, generated content replaces what follows it.
MARKER = "<!-- generated -->"
# A relative link to a page.
LINK = re.compile(r"(?<=\]\()([^)#:]+\.md)(?=[)#])")


def configuration_page() -> str:
    """Returns the configuration reference."""
    parts = [_introduction("reference/configuration.md")]
    for key, fields in config_help.grouped_fields().items():
        rows = [(f"`{f.name}`", f"`{f.default!r}`", _cell(f.description)) for f in fields]
        parts += [f"## {config_help.GROUPS[key]}", _table(("field", "default", "meaning"), rows)]
    pairs = [(*key, "standard", *networks) for key, networks in configs.PAIRS.items()]
    pairs += [(key, "any", "fast", *networks) for key, networks in configs.FAST_PAIRS.items()]
    parts += [
        "## Networks of each setting",
        _table(("setting", "size", "recipe", "teacher", "student"), map(_code, pairs)),
        "## Networks",
        "With 10 outputs, for colour images of 32x32 pixels.",
        _table(("network", "parameters", "multiply-adds, millions"), map(_size_row, MODELS)),
        "## Fields of the recipe fast",
        _table(("field", "value"), map(_recipe_row, RECIPES["fast"].items())),
        "## Fields with a new name",
        _table(("old name", "name"), map(_code, RENAMED_FIELDS.items())),
    ]
    return "\n\n".join(parts) + "\n"


def _size_row(name: str) -> tuple[str, ...]:
    parameters, multiply_adds = cost(create(name, 10), (32, 32, 3))
    return f"`{name}`", f"{parameters:,}", f"{multiply_adds / 1e6:.1f}"


def _recipe_row(entry: tuple[str, Any]) -> tuple[str, ...]:
    return f"`{entry[0]}`", f"`{entry[1]!r}`"


def methods_page() -> str:
    """Returns the method reference."""
    defaults, rows, field_rows = configs.base().objective, [], []
    for name, method in METHODS.items():
        flags = (method.needs_teacher, method.abstains, method.adjusts)
        source = _source(inspect.getdoc(method.fn) or "")
        rows.append((f"[`{name}`](#{name})", *("yes" if flag else "no" for flag in flags), source))
        fields = ", ".join(f"`{field}={defaults[field]}`" for field in method.fields)
        field_rows.append((f"`{name}`", fields or "none"))
    header = ("method", "needs a teacher", "abstains", "adjusts the teacher", "source")
    parts = [
        _introduction("reference/methods.md"),
        _table(header, rows),
        "Fields of `config.objective` that a method reads, with their defaults; every method also "
        "reads `pretrain_epochs`, and one with a teacher `rank_weight_start`:",
        _table(("method", "fields"), field_rows),
    ]
    for name, method in METHODS.items():
        # The text before Args: what the method is, its equation and its source.
        doc = re.split(r"\n\n(?:Args|Returns|Raises):", inspect.getdoc(method.fn) or "")[0]
        parts += [f"## {name}", _escape(doc)]
    return "\n\n".join(parts) + "\n"


def _source(doc: str) -> str:
    """Returns the source that a docstring names, on one line."""
    match = re.search(r"^Source: (.*?)\.?$", doc.split("\n\nArgs:")[0], re.MULTILINE | re.DOTALL)
    return " ".join(match[1].split()).rstrip(".") if match else ""


# Pages of which a part is generated, by path in the site.
GENERATED_PAGES = {
    "reference/configuration.md": configuration_page,
    "reference/methods.md": methods_page,
}


def result_pages() -> dict[str, pathlib.Path]:
    """Returns the files of recorded results, by path in the site."""
    folder = ROOT / "experiments" / "results"
    return {f"results/{path.name}": path for path in sorted(folder.glob("*.md"))}


def added_pages() -> dict[str, pathlib.Path]:
    """Returns every file of the repository outside `docs/` that is a page, by path in the site."""
    return {
        "project/contributing.md": ROOT / "CONTRIBUTING.md",
        "project/changelog.md": ROOT / "CHANGELOG.md",
        **result_pages(),
    }


def site_links(markdown: str, page: str) -> str:
    """Returns the text of a page with links to other pages as links within the site.

    Args:
        markdown: of the page, with links to files of the repository.
        page: its path in the site.
    """
    added = added_pages()
    paths = {source: path for path, source in added.items()}
    paths |= {path: path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    folder = added.get(page, DOCS / page).parent

    def replace(match: re.Match[str]) -> str:
        path = paths.get((folder / match[1]).resolve())
        return posixpath.relpath(path, posixpath.dirname(page) or ".") if path else match[0]

    return LINK.sub(replace, markdown)


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Adds the pages that are not files in `docs/`."""
    from mkdocs.structure.files import File

    for path, source in added_pages().items():
        files.append(File.generated(config, path, content=source.read_text()))
    return files


def on_page_markdown(markdown: str, *, page: "Page", **_: Any) -> str:
    """Inserts the generated part of a page, and makes its links lead to pages of the site."""
    path = page.file.src_uri
    generate = GENERATED_PAGES.get(path)
    return generate() if generate else site_links(markdown, path)


def on_page_content(html: str, **_: Any) -> str:
    """Turns the equations that arithmatex has marked into MathML."""
    html = re.sub(
        r'<span class="arithmatex">\\\((.*?)\\\)</span>',
        lambda match: mathml(match[1], display=False),
        html,
        flags=re.DOTALL,
    )
    return re.sub(
        r'<div class="arithmatex">\\\[(.*?)\\\]</div>',
        lambda match: f'<div class="equation">{mathml(match[1], display=True)}</div>',
        html,
        flags=re.DOTALL,
    )


def mathml(equation: str, *, display: bool) -> str:
    """Returns an equation, written in LaTeX with HTML's escapes, as MathML."""
    from html import unescape

    from latex2mathml.converter import convert

    return convert(unescape(equation).strip(), display="block" if display else "inline")


def _introduction(page: str) -> str:
    """Returns what a page in `docs/` has before its generated part."""
    return (DOCS / page).read_text().partition(MARKER)[0].rstrip()


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(row: Iterable[str]) -> list[str]:
    return [f"`{cell}`" for cell in row]


def _cell(text: str) -> str:
    return _escape(text).replace("|", "\\|")


def _escape(text: str) -> str:
    """Escapes what Markdown would read as markup in a comment or docstring."""
    return re.sub(r"([\\*_\[\]$])", r"\\\1", text).replace("<", "&lt;")

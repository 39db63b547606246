"""The layers of the package: a file imports only from its own layer or from those below."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

import kdjax

ROOT = pathlib.Path(kdjax.__file__).parent
# From top to bottom. An entry names a module, or a package with everything in it; the entry with
# the longest path applies. See "Layout" in docs/design.md.
LAYERS = [
    {
        "__main__",
        "commands",
        "cli",
        "config_files",
        "process",
        "main",
        "evaluate",
        "check",
        "monitor",
        "logits",
        "list",
        "export.__main__",
        "predict.__main__",
        "report.__main__",
    },
    {"pipeline", "sweep", "config_warnings"},
    {"report", "predict"},
    {"export"},
    {"evaluation"},
    {"runs"},
    {"training"},
    {
        "config",
        "config_base",
        "config_checks",
        "config_fields",
        "config_help",
        "config_sweep",
        "recipes",
    },
    {"data", "objectives"},
    {"runtime"},
    {
        "losses",
        "adjustment",
        "standardization",
        "targets",
        "selective",
        "models",
        "checks",
        "command_lines",
        "errors",
        "extras",
        "field_types",
        "paths",
    },
]
# safetensors is imported when a file of weights is read.
PURE_LIBRARIES = {"jax", "flax", "numpy", "scipy", "optax", "safetensors", "kdjax"}
OLD_WORDS = re.compile(
    r"\b(Master|Said|Shown|Fed|Desk|descended|gathered|everywhere|horses|stake)\b"
)
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in FILES
}


def layer(module: str) -> int | None:
    """Returns the layer of a module, such as `training.step`; None if it is in no layer."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        for index, names in enumerate(LAYERS):
            if name in names:
                return index
    return None


def imported_names(path: pathlib.Path) -> set[str]:
    """Returns the full names of everything that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported_modules(path: pathlib.Path) -> set[str]:
    """Returns the modules of kdjax that a file imports, without the package's own name."""
    modules = set()
    for name in imported_names(path):
        if name.startswith("kdjax."):
            module = name.removeprefix("kdjax.")
            # The last part may be a function or a class of a module.
            modules.add(module if module in MODULES else module.rpartition(".")[0] or module)
    return modules


def test_every_module_has_a_layer() -> None:
    assert [module for module in MODULES if layer(module) is None] == []


def test_modules_import_only_from_their_layer_or_below() -> None:
    above = [
        f"kdjax.{module} imports {name} of a layer above its own: {LAYERS[imported_layer]}"
        for module, path in MODULES.items()
        for name in imported_modules(path)
        if (imported_layer := layer(name)) is not None
        and (own_layer := layer(module)) is not None
        and imported_layer < own_layer
    ]
    assert not above, "\n".join(above)


def test_pure_layer_needs_no_other_library() -> None:
    allowed = PURE_LIBRARIES | set(sys.stdlib_module_names)
    for module in (module for module in MODULES if layer(module) == len(LAYERS) - 1):
        libraries = {name.split(".")[0] for name in imported_names(MODULES[module])}
        assert libraries <= allowed, module


def loaded_by(code: str) -> set[str]:
    """Returns the top-level modules that are loaded in a new process after running the code."""
    code += "; import sys; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.slow
def test_importing_the_losses_loads_no_heavy_library() -> None:
    loaded = loaded_by("import kdjax.losses, kdjax.adjustment, kdjax.selective")
    assert {"jax", "optax"} <= loaded
    heavy = {"tensorflow_datasets", "orbax", "sklearn", "tensorflow", "rich", "matplotlib", "PIL"}
    assert not heavy & loaded


@pytest.mark.slow
def test_importing_the_package_loads_submodules_on_first_use() -> None:
    assert "jax" not in loaded_by("import kdjax")
    code = (
        "import kdjax; kdjax.selective.aurc; kdjax.losses.gambler; assert 'restore' in dir(kdjax)"
    )
    loaded = loaded_by(code)
    assert "jax" in loaded and not {"tensorflow_datasets", "orbax"} & loaded


def test_words_of_the_old_vocabulary_do_not_return() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line}"
        for path in FILES
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if OLD_WORDS.search(line)
    ]
    assert not found, "\n".join(found)

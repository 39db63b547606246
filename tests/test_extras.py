"""The extras of the package: what each installs, and what works without them."""

import ast
import importlib.metadata
import re
import sys
import tomllib

import pytest
from support.commands import ROOT, assert_refused, python

import kdjax
from kdjax import extras
from kdjax.errors import InputError

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = PROJECT["optional-dependencies"]
# Parts of libraries that belong to a dependency.
PARTS = {"etils": "orbax", "markupsafe": "jinja2", "onnx": "jax2onnx", "zstandard": "jax"}
# Not installed by `all`: accelerators, services, and what only developers need.
SEPARATE = {"cuda", "tpu", "wandb", "mlflow", "test", "docs", "all"}
# Makes the import of the libraries of all extras fail, as if they were not installed.
BLOCK = """
import sys, importlib.abc
from kdjax import extras
BLOCKED = {{module for extra in {extras} for module in extras.EXTRAS[extra]}}
BLOCKED -= {{"orbax", "rich"}}  # Flax depends on both
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in BLOCKED:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name in BLOCKED else find_spec(name)
"""


def distributions(extra):
    """Returns the normalized names of the distributions that an extra installs by itself."""
    requirements = [re.match(r"[\w.-]+", line) for line in OPTIONAL[extra]]
    names = {match[0].lower().replace("_", "-") for match in requirements if match}
    return names - {"kdjax"}


@pytest.mark.slow
def test_modules_of_an_extra_are_those_of_its_distributions():
    installed = importlib.metadata.packages_distributions()
    for extra, modules in extras.EXTRAS.items():
        for module in modules:
            if module in installed:  # wandb and mlflow are not
                names = {name.lower().replace("_", "-") for name in installed[module]}
                assert names & distributions(extra), module
        assert len(distributions(extra)) == len(modules)


def test_all_installs_every_extra_but_accelerators_and_services():
    def closure(extra):
        inner = re.findall(r"kdjax\[(.*?)\]", " ".join(OPTIONAL[extra]))
        names = {name for names in inner for name in names.split(",")}
        return names.union(*map(closure, names))

    assert closure("all") == set(OPTIONAL) - SEPARATE
    assert closure("test") == closure("all") | {"all"}


def imported_libraries():
    """Yields each library that a file of the package imports, with the file."""
    for path in (ROOT / "kdjax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in names:
                yield name.partition(".")[0], path


@pytest.mark.slow
def test_every_library_that_the_package_imports_is_a_dependency_or_in_an_extra():
    required = {re.match(r"[\w-]+", line)[0] for line in PROJECT["dependencies"]}
    renamed = {"absl_py": "absl", "pillow": "PIL"}
    known = {renamed.get(name, name) for name in (line.replace("-", "_") for line in required)}
    known |= {module for modules in extras.EXTRAS.values() for module in modules}
    known |= {"kdjax", *sys.stdlib_module_names}
    unknown = {(PARTS.get(name, name), path.name) for name, path in imported_libraries()}
    assert {(name, file) for name, file in unknown if name not in known} == set()


def test_missing_library_is_one_line_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(extras.EXTRAS, "report", ("matplotlib", "no_such_library"))
    assert extras.missing("report") == ["no_such_library"]
    with pytest.raises(
        InputError, match=r"no_such_library is not .* pip install 'kdjax\[report\]'"
    ):
        extras.require("train", "report")
    with pytest.warns(RuntimeWarning, match=r"^no page: .*'kdjax\[report\]'$"):
        assert not extras.warn("report", "no page")
    assert extras.warn("train", "nothing")


def test_only_libraries_of_extras_get_a_hint():
    def error(name):
        return extras.missing_library_error(ModuleNotFoundError("", name=name))

    assert "pip install 'kdjax[data]'" in str(error("tensorflow_datasets.core"))
    assert error("my_module") is None and error("") is None


@pytest.mark.slow
def test_losses_metrics_methods_and_networks_need_no_extra():
    code = BLOCK.format(extras="extras.EXTRAS") + (
        "import kdjax, kdjax.losses, kdjax.adjustment, kdjax.selective, kdjax.objectives\n"
        "import kdjax.models, kdjax.config\n"
        "print(sorted(BLOCKED & {name.partition('.')[0] for name in sys.modules}))"
    )
    done = python("-c", code)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_missing_library_in_a_notebook_names_the_extra(monkeypatch):
    def fail(_):
        raise ModuleNotFoundError("No module named 'orbax'", name="orbax")

    monkeypatch.setattr(kdjax.importlib, "import_module", fail)
    with pytest.raises(ModuleNotFoundError, match=r"orbax is not .* 'kdjax\[train\]'$"):
        kdjax.__getattr__("restore")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "arguments", "missing", "extra"),
    [
        ("kdjax.main", ["--config=digits"], "train", "train"),
        ("kdjax.report", ["run"], "report", "report"),
        ("kdjax.predict", ["--model=model", "x.png"], "export", "export"),
    ],
)
def test_command_without_its_extra_is_one_line(module, arguments, missing, extra, tmp_path):
    code = BLOCK.format(extras=[missing]) + (
        f"import runpy; sys.argv[1:] = {arguments}\n"
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    done = python("-c", code, cwd=tmp_path)
    assert_refused(done, f"is not installed: pip install 'kdjax[{extra}]'")
    assert list(tmp_path.iterdir()) == []

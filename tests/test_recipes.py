"""Recipes: which value of a field counts, in Python and on the command line."""

import pathlib
from typing import Any

import pytest
from absl import flags
from ml_collections import config_flags
from support.commands import ROOT, assert_refused, command
from support.runs import get_config

from kdjax import config_files, recipes
from kdjax.config import FAST_PAIRS, PAIRS, base, resolve
from kdjax.config_fields import field_names
from kdjax.errors import InputError

# ml_collections loads the config file in a way that Python has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

FAST = recipes.RECIPES["fast"]
PRETRAINING = ("--config.objective.pretrain_epochs=999",)
CIFAR10 = ROOT / "configs" / "cifar10.py"


def parse(*arguments: str) -> Any:
    """Returns the config of a command line, resolved but for what depends on the device."""
    replaced, path = config_files.with_path(["kdjax", *arguments])
    assert path is not None
    argv = config_files.expand(replaced, path)
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    values(argv)
    return resolve(holder.value, devices=False)


def value(config: Any, field: str) -> Any:
    group, _, name = field.rpartition(".")
    return config[group][name]


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_fields_of_a_recipe_exist_and_resolve(name: str) -> None:
    config = resolve(recipes.apply(base(), name), devices=False)
    assert set(recipes.RECIPES[name]) <= set(field_names(base()))
    assert {field: value(config, field) for field in recipes.RECIPES[name]} == recipes.RECIPES[name]
    assert config.recipe == name


def test_standard_recipe_changes_nothing() -> None:
    assert recipes.apply(base(), "standard").to_dict() == base().to_dict()


@pytest.mark.parametrize("setting", FAST_PAIRS)
@pytest.mark.parametrize("size", ["paper", "laptop"])
def test_fast_recipe_selects_its_networks(setting: str, size: str) -> None:
    config = recipes.apply(base(), "fast")
    config.setting, config.size = setting, size
    resolved = resolve(config)
    assert (resolved.teacher.model, resolved.student.model) == FAST_PAIRS[setting]
    assert resolve(resolved).to_dict() == resolved.to_dict()


def test_fields_that_are_set_after_the_recipe_count() -> None:
    config = recipes.apply(base(), "fast")
    config.teacher.momentum = 0.9
    config.student.model = "resnet8"
    resolved = resolve(config)
    assert (resolved.teacher.momentum, resolved.student.model) == (0.9, "resnet8")
    assert resolved.teacher.epochs == FAST["teacher.epochs"]


def test_named_but_not_applied_recipe_is_refused() -> None:
    config = base()
    config.recipe = "fast"
    with pytest.raises(InputError, match=r"kdjax.recipes.apply\(config, 'fast'\)"):
        resolve(config)


def test_unknown_recipe_is_named() -> None:
    for call in (lambda: recipes.apply(base(), "fats"), lambda: resolve(changed("fats"))):
        with pytest.raises(InputError, match="'fats': did you mean 'fast'"):
            call()


def changed(recipe: str) -> Any:
    config = base()
    config.recipe = recipe
    return config


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config=digits", "--config.recipe=fast", "--config.teacher.momentum=0.9"],
        ["--config=digits", "--config.teacher.momentum=0.9", "--config.recipe=fast"],
        ["--config", "digits", "--config.recipe", "fast", "--config.teacher.momentum", "0.9"],
    ],
)
def test_flags_of_fields_count_more_than_the_recipe_in_any_order(arguments: list[str]) -> None:
    config = parse(*arguments)
    assert config.teacher.momentum == 0.9
    others = set(FAST) - {"teacher.momentum"}
    # They count more than the config file, which sets other epochs.
    assert {field: value(config, field) for field in others} == {
        field: FAST[field] for field in others
    }


@pytest.mark.parametrize(
    ("arguments", "recipe", "epochs"),
    [
        ([], "standard", 200),
        (["--config.size=laptop"], "fast", FAST["teacher.epochs"]),
        (["--config.size=laptop", "--config.teacher.epochs=3"], "fast", 3),
        (["--config.size=laptop", "--config.recipe=standard"], "standard", 200),
        (["--config.recipe=fast"], "fast", FAST["teacher.epochs"]),
    ],
)
def test_size_of_cifar10_chooses_its_recipe(arguments: list[str], recipe: str, epochs: int) -> None:
    config = parse(f"--config={CIFAR10}", *arguments)
    assert (config.recipe, config.teacher.epochs) == (recipe, epochs)
    fast = recipe == "fast"
    pair = FAST_PAIRS["structure"] if fast else PAIRS["structure", config.size]
    assert (config.teacher.model, config.student.model) == pair
    # The payoff of CIFAR-10 is that of either.
    assert config.objective.payoff == 2.2


def test_size_in_python_is_the_argument_of_get_config() -> None:
    assert get_config(CIFAR10).recipe == "standard"
    config = config_files.load(CIFAR10, "laptop")
    assert (config.recipe, config.size) == ("fast", "laptop")


def test_size_is_a_field_only_where_get_config_has_no_argument() -> None:
    config = parse("--config=digits", "--config.size=paper")
    assert (config.size, config.recipe, config.teacher.model) == ("paper", "standard", "resnet18")


def test_file_with_another_argument_does_not_get_the_size(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "own.py"
    text = "from kdjax.config import base\ndef get_config(name='a'):\n    config = base()\n"
    path.write_text(text + "    config.name = name\n    return config\n")
    config = parse(f"--config={path}", "--config.size=laptop")
    assert (config.name, config.size) == ("a", "laptop")


@pytest.mark.slow
def test_command_applies_the_recipe_of_the_size() -> None:
    refused = command("main", "--config=cifar10", "--config.size=laptop", *PRETRAINING)
    epochs = FAST["student.epochs"]
    assert_refused(refused, f"pretrain_epochs 999 is more than student.epochs {epochs}")

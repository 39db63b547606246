"""docs/: commands, code, generated pages, and the completeness of the registries that it names."""

import dataclasses
import functools
import importlib
import importlib.util
import inspect
import pathlib
import pkgutil
import posixpath
import re
import types
from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from support import evidence as evidences
from support import sample_runs
from support.commands import ROOT
from support.documents import PAGES, README, check_command, check_config, code_blocks, commands
from support.logs import open_log
from support.networks import (
    HYPER,
    linear_spec,
    order,
    random_split,
    single_program,
    teacher_variables,
)

import kdjax.config
import kdjax.config_checks
import kdjax.config_fields
import kdjax.models
from kdjax import config_help, data, losses, models, selective
from kdjax.data import augment, batches, own
from kdjax.evaluation import promises, summary
from kdjax.export import card, formats
from kdjax.models import MODELS
from kdjax.objectives import METHODS
from kdjax.recipes import RECIPES
from kdjax.runs import restore, students
from kdjax.selective import SCORES
from kdjax.training import optimizer, step
from kdjax.training.metric_writer import METRIC_WRITERS
from kdjax.training.optimizer import SCHEDULES, ScheduleOptions

# ml_collections loads the config file in a way that Python has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

DOCS = ROOT / "docs"
DESIGN = (DOCS / "design.md").read_text()
# Text of each section of "How to add", by its title.
ADDITIONS = {
    section.partition("\n")[0]: section
    for section in DESIGN.partition("## How to add")[2].partition("\n## ")[0].split("\n### ")[1:]
}
COMMANDS = sorted({(path, command) for path in PAGES for command in commands(path)})
CONFIG_FLAGS = sorted(
    {
        flag
        for path in PAGES
        for flag in re.findall(r"`(--config\.[^`]+=[^`]+)`", path.read_text())
        if not re.search(r"=[A-Z]+$", flag)  # a placeholder
    }
)
REGISTRIES = (METHODS, MODELS, SCORES, METRIC_WRITERS, SCHEDULES, promises.PROMISES)


def load_file(path: pathlib.Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks = load_file(DOCS / "hooks.py")


@pytest.fixture(autouse=True)
def restored_registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Takes out of the registries what a test has added."""
    monkeypatch.setattr(kdjax.config_checks, "SCHEDULES", kdjax.config_checks.SCHEDULES)
    before = [dict(registry) for registry in REGISTRIES]
    yield
    for registry, entries in zip(REGISTRIES, before, strict=True):
        assert isinstance(registry, dict)
        registry.clear()
        registry.update(entries)


def run_addition(title: str) -> dict:
    (code,) = code_blocks(ADDITIONS[title], "python")
    return run(code)


def run(code: str) -> dict:
    names: dict = {"__name__": "addition"}
    exec(code, names)
    return names


def apply_diff(source: str, diff: str) -> str:
    """Returns a source with the hunks of a diff applied; each must fit in exactly one place."""
    for hunk in re.split(r"^@@.*\n", diff, flags=re.MULTILINE)[1:]:
        before, after = (
            "".join(line[1:] for line in hunk.splitlines(keepends=True) if line[0] != sign)
            for sign in "+-"
        )
        assert source.count(before) == 1, before
        source = source.replace(before, after)
    return source


def resolved(**changes: object) -> object:
    config = kdjax.config.base()
    config.update_from_flattened_dict(changes)
    return kdjax.config.resolve(config)


# Commands and code of the pages.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "command"), COMMANDS, ids=[f"{path.stem}-{command[:60]}" for path, command in COMMANDS]
)
def test_every_command_has_flags_that_exist(
    path: pathlib.Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if re.search(r"\b(PATH|FILE|DIR|NAME)\b", command):
        command = command.replace("--config=FILE", "--config=configs/digits.py")
        command = re.sub(r"=(PATH|FILE|DIR)", "=x", command).replace("=NAME", "=digits")
    check_command(command, monkeypatch)


@pytest.mark.parametrize("flag", CONFIG_FLAGS)
def test_every_config_flag_resolves(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_config(["--config=configs/cifar10.py", flag], monkeypatch)


def test_the_job_set_runs_the_main_command_with_flags_that_exist(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (text,) = code_blocks((DOCS / "how-to" / "clusters.md").read_text(), "yaml")
    (workers,) = yaml.safe_load(text)["spec"]["replicatedJobs"]
    (container,) = workers["template"]["spec"]["template"]["spec"]["containers"]
    assert container["command"][:3] == ["python", "-m", "kdjax.main"]
    check_config(container["command"][3:], monkeypatch)


@pytest.fixture
def runs_folder(finished_run, tmp_path, monkeypatch) -> None:
    """A working directory with a finished run, `runs/digits`, and a model under two names."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "digits").symlink_to(finished_run.folder)
    model = tmp_path / "runs" / "digits_model"
    model.mkdir()
    for name in ("quickstart_model", "digits_teacher"):  # in README.md, and of a fallback
        model.with_name(name).symlink_to(model)

    def accept_bright(images):
        brightness = images.astype(jnp.float32).mean(axis=(1, 2, 3)) / 255
        logits = brightness[:, None] * jnp.ones((1, 11))
        return logits, jnp.zeros_like(brightness, jnp.int32), brightness, brightness >= 0.5

    content = formats.to_stablehlo(accept_bright, (8, 8, 1))
    (model / formats.STABLEHLO).write_bytes(content)
    fields = {
        **dict.fromkeys(card.FIELDS),
        "format": card.FORMAT,
        "classes": [str(digit) for digit in range(10)],
        "input": {"shape": [8, 8, 1]},
        "threshold": 0.5,
        "files": {formats.STABLEHLO: {"sha256": card.sha256(content)}},
    }
    sample_runs.write_json(model / card.FILE_NAME, fields)
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [path for path in PAGES if path.name != "design.md" and "```python" in path.read_text()],
    ids=lambda path: path.stem,
)
def test_the_python_of_a_page_runs(path: pathlib.Path, runs_folder: None) -> None:
    names: dict = {"config": kdjax.config.base(), "__name__": "page"}
    for code in code_blocks(path.read_text(), "python"):
        exec(code, names)


def test_the_student_list_of_the_page_expands_to_three_students() -> None:
    (code,) = code_blocks((DOCS / "how-to" / "many-students.md").read_text(), "python")
    exec(code, {"config": (config := kdjax.config.base())})
    assert len(students.expand(kdjax.config.resolve(config))) == 3


def test_the_sweeps_of_the_page_expand_to_their_settings() -> None:
    blocks = code_blocks((DOCS / "how-to" / "sweeps.md").read_text(), "python")
    for code, count in zip(blocks, (6, 7), strict=True):
        exec(code, {"config": (config := kdjax.config.base())})
        assert len(students.expand(kdjax.config.resolve(config))) == count


def assert_logits_of(model: nn.Module) -> None:
    images = jnp.ones((2, 8, 8, 1))
    variables = model.init(jax.random.key(0), images, train=False)
    logits = model.apply(variables, images, train=False)
    assert logits.shape == (2, 11) and logits.dtype == jnp.float32


def test_every_named_file_and_test_exists() -> None:
    for path in PAGES:
        text = path.read_text()
        named = re.findall(r"`((?:kdjax|tests|experiments|configs)/[\w/]+\.\w+)", text)
        missing = [name for name in named if "NAME" not in name and not (ROOT / name).exists()]
        assert missing == [], path
        for name, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text):
            assert f"def {test}(" in (ROOT / name).read_text(), test


# Generated pages.


@pytest.mark.slow
def test_the_configuration_page_has_every_field_with_its_default() -> None:
    base = kdjax.config.base()
    shared = [field for field in base.teacher if field in base.student]
    stage = [f"{name}.{field}" for name in config_help.STAGES for field in shared]
    fields = config_help.fields()
    names = [field.name for field in fields if field.group != "stage"]
    assert sorted([*names, *stage]) == sorted(kdjax.config_fields.field_names(base))
    assert [field.name for field in fields if not field.description] == []
    page = hooks.configuration_page()
    assert all(f"| `{field.name}` | `{field.default!r}` | " in page for field in fields)
    assert all(f"| `{name}` | " in page for name in MODELS)
    assert all(f"| `{field}` | `{value!r}` |" in page for field, value in RECIPES["fast"].items())


def test_the_method_page_is_the_table_of_methods() -> None:
    page = hooks.methods_page()
    assert "| `dkd` | `distill_weight=1.0`, `distill_warmup_epochs=0.0`, `temperature=4.0`" in page
    rows = re.findall(
        r"^\| \[`(\w+)`\]\(#\w+\) \| (yes|no) \| (yes|no) \| (yes|no) \| .*\w.* \|$",
        page,
        flags=re.MULTILINE,
    )
    flags = {name: tuple(cell == "yes" for cell in cells) for name, *cells in rows}
    assert flags == {
        name: (method.needs_teacher, method.abstains, method.adjusts)
        for name, method in METHODS.items()
    }


def test_the_results_page_links_every_result() -> None:
    index = (DOCS / "results" / "index.md").read_text()
    linked = re.findall(r"\]\((\w+\.md)\)", hooks.site_links(index, "results/index.md"))
    assert {f"results/{name}" for name in linked} >= set(hooks.result_pages())


def test_every_link_of_a_page_leads_to_a_file_without_a_build() -> None:
    missing = [
        (path.name, link)
        for path in PAGES
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", path.read_text())
        if not (path.parent / link).exists()
    ]
    assert missing == []


def test_every_link_of_the_site_leads_to_a_page_of_it() -> None:
    site = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*") if path.suffix != ".py"}
    site |= set(hooks.added_pages())
    pages = {str(path.relative_to(DOCS)): path for path in DOCS.rglob("*.md")}
    for page, path in (pages | hooks.added_pages()).items():
        generate = hooks.GENERATED_PAGES.get(page)
        text = generate() if generate else hooks.site_links(path.read_text(), page)
        links = re.findall(r"\]\(([^)#:\s]+\.\w+)(?:#[^)]*)?\)", text)
        targets = {posixpath.normpath(posixpath.join(posixpath.dirname(page), x)) for x in links}
        assert targets <= site, page


def test_navigation_has_every_page() -> None:
    named = re.findall(
        r"^ +- (?:[^:\n]+: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE
    )
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert set(named) == pages | set(hooks.added_pages())


# "How to add": the code of each section does what the section says.


def test_the_added_loss_follows_its_equation() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 4))
    labels = np.arange(5) % 4
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = ((probabilities - np.eye(4)[labels]) ** 2).sum(axis=1)
    brier = run_addition("A loss")["brier"]
    assert_allclose(brier(jnp.asarray(logits), jnp.asarray(labels)), expected, rtol=1e-5)


@pytest.mark.slow
def test_the_added_method_trains_a_student() -> None:
    run_addition("A method")
    assert resolved(**{"objective.method": "half_ka"}).objective.method == "half_ka"
    spec = linear_spec(objective=functools.partial(METHODS["half_ka"], hyper=HYPER))
    split = random_split()
    examples = batches.put_split(split, np.array([0.5]), np.array([0.3]))
    source = batches.DeviceSplit(examples, order())
    state = step.init_state(spec, split.images.shape[1:])
    new_state, metrics = single_program(spec)(state, source, teacher_variables(), 1)
    assert {"cross_entropy", "distillation", "teacher_error"} <= metrics.keys()
    assert np.isfinite(metrics["loss"]).all() and int(new_state.step) == 1


@pytest.mark.slow
def test_the_added_model_can_be_created_by_name() -> None:
    run_addition("A model")
    assert resolved(**{"student.model": "mlp"}).student.model == "mlp"
    assert_logits_of(models.create("mlp", 11, width=4, dtype="bfloat16"))


@pytest.mark.slow
def test_the_added_score_is_reported() -> None:
    run_addition("A score")
    outputs = {name: sample_runs.split(60, seed) for seed, name in enumerate(sample_runs.SPLITS)}
    results = summary.summarize(outputs, abstains=False, risk=0.1, delta=0.05)
    top = np.sort(outputs["test"].logits[:, :-1], axis=1)
    gap = selective.numpy_scores(2.0)["logit_gap"](outputs["test"].logits)
    assert_allclose(gap, top[:, -1] - top[:, -2])
    assert "logit_gap" in results["scores"]


def test_the_added_promise_is_computed_and_stated() -> None:
    run_addition("A promise")
    split = evidences.outputs(np.linspace(0, 1, 50), np.ones(50, bool))
    evidence = evidences.of(split, split, threshold=0.5, source="dev, 50 % coverage", delta=0.05)
    results = {"promises": promises.compute_all(evidence)}
    # 25 of 50 images are not accepted.
    bound = stats.beta.isf(0.05, 26, 25)
    assert_allclose(results["promises"]["abstentions"]["abstentions"], bound, rtol=1e-9)
    assert f"at most {100 * bound:.1f} %" in promises.statements(results)[-1].sentences[0]


OWN_DATA = (DOCS / "how-to" / "own-data.md").read_text()


def test_the_builder_of_the_page_is_loaded_by_its_config(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder, config_file = code_blocks(OWN_DATA, "py")
    (tmp_path / "stripes.py").write_text(builder)
    (tmp_path / "stripes_config.py").write_text(config_file)
    monkeypatch.syspath_prepend(tmp_path)
    config = load_file(tmp_path / "stripes_config.py").get_config()
    config.data.dir = str(tmp_path / "data")
    dataset = restore.load_data(kdjax.config.resolve(config))
    assert dataset.class_names == ("horizontal", "vertical")
    assert dataset.image_shape == (8, 8, 1)
    assert len(dataset.train.labels) == 80 and len(dataset.test.labels) == 40
    horizontal = dataset.test.images[dataset.test.labels == 0]
    assert (horizontal == horizontal[:, :, :1]).all()


def test_the_npz_file_of_the_page_is_loaded(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(code_blocks(OWN_DATA, "python")[0])
    dataset = data.load("npz:halves.npz", data_dir=tmp_path / "cache", stream=True)
    assert dataset.class_names == ("upper", "none") and dataset.image_shape == (28, 28, 1)


def test_the_csv_file_of_the_page_is_read(tmp_path: pathlib.Path) -> None:
    (text,) = code_blocks(OWN_DATA, "csv")
    (tmp_path / "labels.csv").write_text(text)
    listing = own.csv.read(tmp_path / "labels.csv")
    assert [example.split for example in listing.examples] == ["train", "train", "test"]
    assert listing.examples[2].group == "visit 7"


def test_the_added_metric_writer_is_used_by_every_stage(tmp_path: pathlib.Path) -> None:
    run_addition("A metric writer")
    config = resolved(metric_writers=("tensorboard", "csv"))
    with open_log(tmp_path, writers=config.metric_writers) as log:
        log.write(1, "train", {"loss": 0.5})
    assert (tmp_path / "metrics.csv").read_text() == "1,train,loss,0.5\n"
    assert (tmp_path / "metrics.jsonl").exists()


@pytest.mark.slow
def test_the_added_augmentation_numbers_every_quarter_turn() -> None:
    (diff,) = code_blocks(ADDITIONS["An augmentation"], "diff")
    names = run(apply_diff(pathlib.Path(augment.__file__).read_text(), diff))
    turning, fixed = (names["Augmentation"](pad=0, flip=True, turn=turn) for turn in (True, False))
    images = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 1), dtype=np.uint8)
    count = names["num_augmentations"](turning)
    apply = jax.jit(functools.partial(names["apply_augmentation"], augmentation=turning))
    augmented = np.asarray(apply(np.repeat(images, count, axis=0), jnp.arange(count)))
    assert len({image.tobytes() for image in augmented}) == count == 8
    assert_array_equal(augmented[1], np.rot90(images[0]))
    sample = functools.partial(names["sample_augmentation"], jnp.arange(100), seed=1, epoch=2)
    assert set(np.asarray(sample(augmentation=turning)).tolist()) == set(range(count))
    assert_array_equal(
        sample(augmentation=fixed),
        augment.sample_augmentation(
            jnp.arange(100), seed=1, epoch=2, augmentation=augment.Augmentation(pad=0, flip=True)
        ),
    )


def test_the_added_schedule_is_used_after_the_warm_up() -> None:
    run_addition("A learning-rate schedule")
    assert resolved(**{"student.schedule": "constant"}).student.schedule == "constant"
    options = ScheduleOptions(
        learning_rate=0.4, epochs=5, warmup_epochs=1.0, step_every=1, step_factor=1.0
    )
    schedule = optimizer.learning_rate_schedule("constant", options, steps_per_epoch=2)
    assert_allclose([float(schedule(each)) for each in range(10)], [0.2] + [0.4] * 9, rtol=1e-6)


def test_every_addition_of_the_design_page_is_tested() -> None:
    assert list(ADDITIONS) == [
        "A loss",
        "A method",
        "A model",
        "A score",
        "A promise",
        "A data source",
        "A metric writer",
        "An augmentation",
        "A learning-rate schedule",
    ]


# The second file of each addition.


def test_every_public_function_of_the_losses_is_in_all() -> None:
    functions = {
        name
        for module in (losses.labels, losses.teachers)
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
        if not name.startswith("_")
    }
    assert set(losses.__all__) == functions, "add the loss to __all__ of its module"
    assert all(inspect.isfunction(getattr(losses, name)) for name in functions)


def test_every_loss_has_a_reference() -> None:
    equations = load_file(ROOT / "tests" / "test_losses.py").EQUATIONS
    assert set(losses.__all__) == set(equations), (
        "add the equation of each loss of kdjax/losses/ to EQUATIONS in tests/test_losses.py"
    )


def test_every_network_is_registered() -> None:
    """Every Linen module of kdjax/models that has `num_outputs` is the class of a name."""
    heads = {models.common.Head, models.fast_cnn.ScaledHead}
    registered = {type(models.create(name, 3)) for name in MODELS} | heads
    networks = {
        value
        for info in pkgutil.walk_packages(kdjax.models.__path__, "kdjax.models.")
        for value in vars(importlib.import_module(info.name)).values()
        if inspect.isclass(value) and issubclass(value, nn.Module)
        if "num_outputs" in value.__dataclass_fields__
    }
    assert networks == registered, "add the network to MODELS in kdjax/models/registry.py"


def test_every_promise_is_registered() -> None:
    modules = [
        importlib.import_module(f"{promises.__name__}.{module.name}")
        for module in pkgutil.iter_modules(promises.__path__)
    ]
    defined = [module.PROMISE for module in modules if hasattr(module, "PROMISE")]
    assert defined and all(promise in promises.PROMISES.values() for promise in defined), (
        "PROMISES in kdjax/evaluation/promises/__init__.py lists the promises of all modules"
    )


@pytest.mark.slow
def test_scores_of_the_abstention_output_are_listed() -> None:
    logits = np.random.default_rng(0).normal(size=(20, 5))
    changed = logits + np.eye(5)[-1]
    reading = {
        name
        for name, score in SCORES.items()
        if not np.allclose(score(logits, abstention=True), score(changed, abstention=True))
    }
    assert reading == set(summary.ABSTENTION_SCORES), (
        "ABSTENTION_SCORES in kdjax/evaluation/summary.py lists the scores that read the "
        "abstention output"
    )


def test_every_score_has_a_row_in_the_docs() -> None:
    page = (DOCS / "concepts" / "scores-and-metrics.md").read_text()
    table = page.partition("| score | equation |")[2].partition("\n\n")[0]
    names = {
        name
        for row in table.splitlines()
        for name in re.findall(r"`(\w+)`", row.strip("| ").partition(" | ")[0])
    }
    assert names == set(SCORES)


def test_every_kind_of_own_images_has_a_reader() -> None:
    assert own.load.READERS.keys() == own.names.KINDS.keys(), (
        "add the kind to READERS in kdjax/data/own/load.py and KINDS in kdjax/data/own/names.py"
    )


def test_every_own_data_set_has_a_config() -> None:
    from kdjax.data.tfds import builders

    own = {
        value.name
        for value in vars(builders).values()
        if inspect.isclass(value) and value.__module__ == builders.__name__
    }
    configured = {
        load_file(path).get_config().data.name for path in (ROOT / "configs").glob("*.py")
    }
    assert {*own, *builders.FILES} <= configured, "add a config for the data set to configs/"


def test_every_augmentation_is_a_config_field() -> None:
    fields = {field.name for field in dataclasses.fields(augment.Augmentation)}
    assert fields <= set(kdjax.config.base().data), (
        "add the field of Augmentation to config.data in kdjax/config_base.py"
    )


def test_every_schedule_is_a_config_value() -> None:
    assert set(SCHEDULES) == set(kdjax.config_checks.SCHEDULES), (
        "add the name of the schedule to SCHEDULES in kdjax/config_checks.py"
    )


def test_every_optimizer_is_a_config_value() -> None:
    assert set(optimizer.OPTIMIZERS) == set(kdjax.config_checks.OPTIMIZERS), (
        "add the name of the optimizer to OPTIMIZERS in kdjax/config_checks.py"
    )


def test_the_readme_names_every_page() -> None:
    text = README.read_text()
    written = [path for path in PAGES if path.is_relative_to(DOCS) and "api" not in path.parts]
    assert [path.name for path in written if str(path.relative_to(ROOT)) not in text] == []

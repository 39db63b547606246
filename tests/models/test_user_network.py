"""Networks of the user: loading, arguments, the interface, and one line for each fault."""

import functools
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.user_networks import LINEN, NNX, write

from kdjax import models
from kdjax.errors import InputError
from kdjax.models import apply, user_class, user_network

SHAPE = (8, 8, 1)


@pytest.fixture(params=[LINEN, NNX], ids=["linen", "nnx"])
def model(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> user_network.UserNetwork:
    return created(write(tmp_path, request.param))


def created(path: str, name: str = "Net", **options) -> user_network.UserNetwork:
    return user_network.create(f"{path}:{name}", 5, image_shape=SHAPE, **options)


def initialized(model):
    init = jax.jit(functools.partial(apply.init, model))
    variables = init(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    return variables, np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)


def test_variables_have_the_names_of_the_class_itself(model) -> None:
    variables = apply.abstract_variables(model, SHAPE)
    top = {name for collection in variables.values() for name in collection}
    assert top in ({"Conv_0", "BatchNorm_0", "Dense_0"}, {"conv", "norm", "head"})


@pytest.mark.slow
def test_training_mode_updates_statistics_and_draws_dropout_by_the_key(model) -> None:
    variables, images = initialized(model)
    train = jax.jit(functools.partial(apply.apply_train, model))
    first, again, other = (train(variables, images, jax.random.key(seed)) for seed in (2, 2, 3))
    np.testing.assert_array_equal(first[0], again[0])
    assert np.any(first[0] != other[0])
    for old, new in zip(*map(jax.tree.leaves, (variables["batch_stats"], first[1])), strict=True):
        assert np.all(old != new)


def test_evaluation_mode_needs_no_key_and_is_float32(model) -> None:
    variables, images = initialized(model)
    evaluate = jax.jit(functools.partial(apply.apply_eval, model))
    logits = evaluate(variables, images)
    assert (logits.shape, logits.dtype) == ((3, 5), jnp.float32)
    np.testing.assert_array_equal(logits, evaluate(variables, images))


def test_a_network_is_equal_and_has_the_same_hash_when_created_again(model) -> None:
    again = user_network.create(model.reference, 5, image_shape=SHAPE)
    assert again == model and hash(again) == hash(model)
    assert user_network.create(model.reference, 6, image_shape=SHAPE) != model


def test_arguments_are_passed_and_lists_become_tuples(tmp_path) -> None:
    path = write(tmp_path, LINEN)
    model = created(path, arguments={"features": 7, "depths": [1, [2, 3]]})
    assert (model.network.features, model.network.depths) == (7, (1, (2, 3)))
    hash(model)
    nnx = created(write(tmp_path, NNX, "other.py"), arguments={"features": 7})
    assert apply.abstract_variables(nnx, SHAPE)["params"]["conv"]["kernel"].shape == (3, 3, 1, 7)


def test_dtype_is_passed_and_replaced_where_the_class_takes_one(tmp_path) -> None:
    path = write(tmp_path, LINEN)
    model = models.create(f"{path}:Net", 5, dtype="bfloat16")
    assert model.network.dtype == jnp.bfloat16
    assert models.with_dtype(model, jnp.float32).network.dtype == jnp.float32
    flat = created(path, "Flat")
    assert models.with_dtype(flat, jnp.float32) is flat


def test_module_of_the_working_directory_is_found(tmp_path, monkeypatch) -> None:
    package = tmp_path / "mynets_in_a_package"
    package.mkdir()
    (package / "__init__.py").touch()
    write(package, LINEN, "small.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry])
    assert user_network.create("mynets_in_a_package.small:Net", 5).network.num_outputs == 5


def test_file_may_import_a_file_beside_it_and_is_loaded_again_after_an_edit(tmp_path) -> None:
    (tmp_path / "beside_the_nets.py").write_text("WIDTH = 3\n")
    code = LINEN.replace("features: int = 4", "features: int = beside_the_nets.WIDTH")
    path = write(tmp_path, f"import beside_the_nets\n{code}")
    assert created(path).network.features == 3
    write(tmp_path, code.replace("beside_the_nets.WIDTH", "11"))
    assert created(path).network.features == 11


def refusal(call) -> str:
    with pytest.raises(InputError) as raised:
        call()
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_call_that_takes_any_argument_gets_the_mode(tmp_path) -> None:
    signature = "def __call__(self, images, **options):\n        train = options['train']"
    code = re.sub(r"def __call__\(self, images[^)]*\)[^:]*:", signature, LINEN)
    model = created(write(tmp_path, code))
    variables, images = initialized(model)
    _, updated = apply.apply_train(model, variables, 5 * images + 3, jax.random.key(1))
    before, after = (jax.tree.leaves(each) for each in (variables["batch_stats"], updated))
    assert not any(np.array_equal(old, new) for old, new in zip(before, after, strict=True))


def test_nnx_call_whose_mode_defaults_to_that_of_the_layers_is_accepted(tmp_path) -> None:
    code = NNX.replace(
        "def __call__(self, images)", "def __call__(self, images, deterministic=None)"
    )
    assert code != NNX
    created(write(tmp_path, code))
    with pytest.raises(InputError, match="its call takes 'deterministic'"):
        created(write(tmp_path, code.replace("=None", "=True"), "other.py"))


BROKEN = """
import flax.linen as nn
import jax.numpy as jnp
from flax import nnx


class Net(nn.Module):
    num_outputs: int
    dtype: object = "float32"

    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(self.num_outputs)(images.mean(axis=(1, 2)))


class NoOutputs(nn.Module):
    features: int = 3


class NeedsDepth(Net):
    depth: int = None

    def __post_init__(self):
        super().__post_init__()


class WrongShape(Net):
    def __call__(self, images, train):
        return images


class TwoMore(Net):
    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(self.num_outputs + 2)(images.mean(axis=(1, 2)))


class Fails(Net):
    def __call__(self, images, train):
        return images @ jnp.zeros((7, 7))


class OtherArguments(Net):
    def __call__(self, images, masks, train):
        return images


class Cached(Net):
    @nn.compact
    def __call__(self, images, train):
        self.variable("cache", "count", lambda: jnp.zeros(()))
        return nn.Dense(self.num_outputs)(images.mean(axis=(1, 2)))


class Empty(Net):
    def __call__(self, images, train):
        return jnp.zeros((len(images), self.num_outputs))


class Integers(Net):
    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(self.num_outputs)(images.mean(axis=(1, 2))).astype(int)


class Listed(Net):
    depths: list = None

    def __post_init__(self):
        self.depths = [1, 2]
        super().__post_init__()


class Tuple(Net):
    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(self.num_outputs)(images.mean(axis=(1, 2))), 1


class Mixes(Net):
    @nn.compact
    def __call__(self, images, train):
        x = nn.Conv(3, (3, 3))(images)
        axes = {"axis": (0, 1, 2), "keepdims": True}
        x = (x - x.mean(**axes)) / (x.std(**axes) + 1e-3)
        return nn.Dense(self.num_outputs)(nn.relu(x).mean(axis=(1, 2)))


class Training(Net):
    @nn.compact
    def __call__(self, images, training=False):
        x = nn.BatchNorm(use_running_average=not training)(images)
        return nn.Dense(self.num_outputs)(x.mean(axis=(1, 2)))


class Torch:
    pass


def function(num_outputs):
    return None
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Nett", "has no class 'Nett': did you mean 'Net'"),
        ("Torch", r"Torch is a subclass of builtins.object, not a subclass of flax.linen.Module"),
        ("function", r"function is a function, not a subclass.*networks there: .*Net"),
        ("NoOutputs", r"takes neither num_outputs nor num_classes.*its arguments: features"),
        ("WrongShape", r"returns logits of shape \(2, 8, 8, 1\) for 2 images.*must be \(2, 5\)"),
        ("TwoMore", r"returns logits of shape \(2, 7\) for 2 images"),
        ("Fails", r"TypeError: .*nets.py, line \d+\)$"),
        ("OtherArguments", r"TypeError: .*masks"),
        ("Cached", "has variables of the collection 'cache'"),
        ("Empty", "has no parameters"),
        ("Integers", "returns logits of dtype int32"),
        ("Listed", "an attribute has no hash, such as a list"),
        ("Tuple", "returns a tuple, not an array of logits"),
        ("Training", "its call takes 'training': the argument .* must be called 'train'"),
        ("Mixes", "in evaluation mode .* depend on the other images of the batch"),
    ],
)
def test_fault_of_a_class_is_one_line(tmp_path, name, words) -> None:
    path = write(tmp_path, BROKEN)
    message = refusal(lambda: user_network.check(created(path, name), SHAPE, 5))
    assert message.startswith("model '") and re.search(words, message), message


@pytest.mark.slow
def test_equal_networks_are_checked_once_and_a_fault_every_time(tmp_path, monkeypatch) -> None:
    path, init_all, traced = write(tmp_path, LINEN), apply.init_all, []

    def count(*arguments):
        traced.append(arguments)
        return init_all(*arguments)

    monkeypatch.setattr(apply, "init_all", count)
    for shape, outputs in ((SHAPE, 5), (list(SHAPE), 5), (SHAPE, 5), ((9, 8, 1), 5)):
        user_network.check(created(path), shape, outputs)
    assert len(traced) == 2  # the shape of the images counts
    for _ in range(2):
        refusal(lambda: user_network.check(created(path), SHAPE, 6))
    assert len(traced) == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"arguments": {"featurs": 3}}, "'featurs': did you mean 'features'"),
        ({"arguments": {"num_outputs": 3}}, "argument 'num_outputs' is set by kdjax"),
        ({"width": 3}, "takes no width"),
    ],
)
def test_fault_of_the_arguments_is_one_line(tmp_path, options, words) -> None:
    path = write(tmp_path, LINEN)
    assert words in refusal(lambda: created(path, **options))
    if "width" in options:
        bfloat16 = refusal(lambda: models.create(f"{path}:Flat", 5, dtype="bfloat16"))
        assert "takes no dtype, so compute_dtype must be float32" in bfloat16
        assert "has its own stem" in refusal(lambda: models.create(f"{path}:Net", 5, stem="large"))


@pytest.mark.parametrize(
    ("annotation", "value", "fits"),
    [
        ("int", 3, True),
        ("int", 3.5, False),
        ("int", True, False),
        ("float", 3, True),
        ("float", "3", False),
        ("bool", True, True),
        ("bool", 1, False),
        ("str", "relu", True),
        ("int | None", None, True),
        ("int | None", "none", False),
        ("tuple[int, ...]", [1, 2], True),
        ("tuple", 3, False),
        ("object", 3, True),
        ("'NotDefined'", 3, True),
    ],
)
def test_arguments_must_be_of_their_annotated_types(tmp_path, annotation, value, fits) -> None:
    path = write(tmp_path, LINEN.replace("depths: tuple = (1,)", f"depths: {annotation} = (1,)"))
    argument = f"features=4, depths: {annotation} = ()"
    nnx = write(tmp_path, NNX.replace("features=4", argument), "nnx_nets.py")
    for reference in (f"{path}:Net", f"{nnx}:Net"):
        check = functools.partial(user_network.check_arguments, reference, {"depths": value})
        if fits:
            check()
        else:
            assert f"argument 'depths' is {value!r} in model_args, must be " in refusal(check)


def test_argument_without_default_is_named(tmp_path) -> None:
    path = write(tmp_path, LINEN.replace("features: int = 4", "features: int"))
    assert "its argument 'features' has no default: give it in model_args" in refusal(
        lambda: created(path)
    )


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("no_such_module_here:Net", "no module 'no_such_module_here' in the working directory"),
        ("flax.linne:Dense", "no module 'flax.linne'.*did you mean 'flax.linen'"),
        ("flax.linen:Dens", "flax.linen has no class 'Dens': did you mean 'Dense'"),
        (":Net", "must be package.module:Class or path/to/file.py:Class"),
        ("nets:", "must be package.module:Class or path/to/file.py:Class"),
        ("{folder}/net.py:Net", "no file '.*net.py': did you mean 'nets.py'"),
        ("{folder}/syntax.py:Net", r"SyntaxError: .*syntax.py, line 2\)"),
        ("{folder}/imports.py:Net", r"ModuleNotFoundError: No module named 'torchh'.*line 1\)"),
        ("{folder}/raises.py:Net", r"ZeroDivisionError: division by zero.*raises.py, line 1\)"),
    ],
)
def test_missing_or_failing_module_is_one_line(tmp_path, reference, words) -> None:
    write(tmp_path, LINEN)
    (tmp_path / "syntax.py").write_text("x = 1\nclass Net(:\n")
    (tmp_path / "imports.py").write_text("import torchh\n")
    (tmp_path / "raises.py").write_text("1 / 0\n")
    message = refusal(lambda: user_class.load_class(reference.format(folder=tmp_path)))
    assert re.search(words, message), message

"""A network of the user behind the interface of kdjax's own: `model(images, train)` -> logits."""

import functools
import inspect
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.core import FrozenDict
from flax.nnx import bridge
from jax.typing import DTypeLike

from kdjax.errors import InputError, unknown_name_error
from kdjax.models import apply, common
from kdjax.models.user_class import failure, load_class

# Names of the argument that is the number of logits; a class has one of them.
OUTPUT_NAMES = ("num_outputs", "num_classes")
# Names that others give to the argument `train` of a call, or to its opposite.
MODE_NAMES = ("training", "is_training", "is_train", "deterministic", "use_running_average")
# Arguments that kdjax or Flax gives.
RESERVED = (*OUTPUT_NAMES, "image_shape", "dtype", "width", "rngs", "parent", "name")
COLLECTIONS = frozenset({"params", "batch_stats"})
_TRACED = 2  # images for which a network is traced
# Values that JSON has for an annotated type.
_JSON_TYPES: Mapping[type, type | types.UnionType] = {int: int, float: int | float, str: str}
# Of the largest logit: more than bfloat16 loses by another order of the sums.
_BATCH_TOLERANCE = 0.05


class UserNetwork(nn.Module):
    """A user's network, called as `model(images, train)`; its variables keep their names.

    Attributes:
        network: the user's Linen module, or `ToLinen` of an NNX module.
        reference: by which the class is found, for messages.
    """

    network: nn.Module
    reference: str

    def setup(self) -> None:
        """Puts the variables of the network at the top, not below the name `network`."""
        nn.share_scope(self, self.network)

    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns logits [b, outputs], at least float32, for images [b, h, w, c], float32."""
        network: Any = self.network
        if isinstance(network, bridge.ToLinen):
            logits = network(images, train, nnx_method=_call_nnx)
        else:
            logits = _call(network, images, train)
        self._check_type(logits)
        return common.at_least_float32(logits)

    def _check_type(self, logits: Any) -> None:
        if not isinstance(logits, jax.Array):
            raise InputError(
                f"model {self.reference!r} returns a {type(logits).__name__}, not an array of "
                "logits"
            )
        if not jnp.issubdtype(logits.dtype, jnp.floating):
            raise InputError(
                f"model {self.reference!r} returns logits of dtype {logits.dtype}, must be float"
            )


def _call_nnx(module: nnx.Module, images: jax.Array, train: bool) -> jax.Array:
    """Calls an NNX module in training or in evaluation mode."""
    module.train() if train else module.eval()
    return _call(module, images, train)


def _call(network: Any, images: jax.Array, train: bool) -> jax.Array:
    logits: jax.Array = network(images, **({"train": train} if _takes_train(network) else {}))
    return logits


def _takes_train(network: Any) -> bool:
    """Returns whether a call takes `train`, by its name or among arguments of any name."""
    taken = inspect.signature(type(network).__call__).parameters
    return "train" in taken or any(each.kind is each.VAR_KEYWORD for each in taken.values())


def _load(reference: str) -> type:
    """Returns the class of a network; see `load_class`.

    Raises:
        InputError: also if its call takes the mode under another name, which would never be set.
            With None as default, the mode is that of the layers, as in NNX.
    """
    network_class: Any = load_class(reference)
    taken = inspect.signature(network_class.__call__).parameters
    others = [name for name in MODE_NAMES if name in taken and taken[name].default is not None]
    if others and "train" not in taken:
        raise InputError(
            f"model {reference!r}: its call takes {others[0]!r}: the argument that tells training "
            "from evaluation must be called 'train'"
        )
    return network_class


def create(
    reference: str,
    num_outputs: int,
    *,
    image_shape: tuple[int, ...] | None = None,
    dtype: DTypeLike = jnp.float32,
    width: int | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> UserNetwork:
    """Returns a network of the user.

    Args:
        reference: of its class, see `load_class`.
        num_outputs: number of logits, passed as `num_outputs` or `num_classes`.
        image_shape: height, width and channels, passed if the class takes it.
        dtype: of the computation, passed if the class takes it.
        width: passed if it is given.
        arguments: further arguments of the class, such as from JSON.

    Raises:
        InputError: if the class cannot be loaded, or its arguments are others.
    """
    network_class = _load(reference)
    taken = _parameters(network_class)
    options = {
        **_outputs(reference, taken, num_outputs),
        **_arguments(reference, network_class, arguments or {}),
        **_optional(reference, taken, image_shape, dtype),
    }
    if width is not None:
        if "width" not in taken:
            raise InputError(f"model {reference!r}: takes no width, so width must be 0")
        options["width"] = width
    _check_complete(reference, taken, options)
    try:
        network = _instantiate(network_class, taken, options)
    except (Exception, SystemExit) as error:
        raise failure(reference, error) from error
    try:
        hash(network)
    except TypeError as error:
        raise InputError(
            f"model {reference!r}: an attribute has no hash, such as a list or a dict: use a tuple"
        ) from error
    return UserNetwork(network, reference)


def check_arguments(reference: str, arguments: Mapping[str, Any]) -> None:
    """Raises for arguments that a class cannot have, before sizes of images and logits are known.

    Args:
        reference: of its class, see `load_class`.
        arguments: of the config, from JSON.

    Raises:
        InputError: for an unknown or missing argument, or a value of another type than annotated.
    """
    network_class = _load(reference)
    taken = _parameters(network_class)
    _outputs(reference, taken, 1)
    given = _arguments(reference, network_class, arguments)
    _check_complete(reference, taken, {**given, **dict.fromkeys(RESERVED)})


def _parameters(network_class: type) -> Mapping[str, inspect.Parameter]:
    """Returns the arguments of a class by name."""
    if issubclass(network_class, nnx.Module):
        # Its metaclass hides the signature of the constructor; the first argument is self.
        _, *parameters = inspect.signature(network_class.__init__).parameters.items()
        return dict(parameters)
    return inspect.signature(network_class).parameters


def _outputs(reference: str, taken: Mapping[str, Any], num_outputs: int) -> dict[str, int]:
    for name in OUTPUT_NAMES:
        if name in taken:
            return {name: num_outputs}
    raise InputError(
        f"model {reference!r}: takes neither num_outputs nor num_classes, the number of logits; "
        f"its arguments: {', '.join(taken) or 'none'}"
    )


def _arguments(reference: str, network_class: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
    taken, hints = _parameters(network_class), _annotations(network_class)
    for name, value in arguments.items():
        if name in RESERVED:
            raise InputError(f"model {reference!r}: argument {name!r} is set by kdjax")
        if name not in taken:
            allowed = [key for key in taken if key not in RESERVED]
            raise unknown_name_error(f"argument of model {reference!r}", name, allowed)
        if not _fits(value, hints.get(name)):
            expected = getattr(hints[name], "__name__", str(hints[name]))
            raise InputError(
                f"model {reference!r}: argument {name!r} is {value!r} in model_args, must be "
                f"{expected}"
            )
    return {name: _hashable(value) for name, value in arguments.items()}


def _annotations(network_class: type) -> dict[str, Any]:
    """Returns the annotated types of a class's arguments; none if they cannot be evaluated."""
    try:
        return get_type_hints(
            network_class.__init__ if issubclass(network_class, nnx.Module) else network_class
        )
    except Exception:  # of any type, as annotations are code of the user
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Returns whether a JSON value can be of an annotated type; any can be of an unusual type."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, each) for each in get_args(hint))
    if hint is bool or hint is type(None):
        return isinstance(value, hint)
    if isinstance(value, bool):  # a subclass of int
        return hint not in (int, float, str)
    if (get_origin(hint) or hint) in (tuple, list):
        return isinstance(value, list)
    return not isinstance(hint, type) or isinstance(value, _JSON_TYPES.get(hint, object))


def _optional(
    reference: str, taken: Mapping[str, Any], image_shape: tuple[int, ...] | None, dtype: DTypeLike
) -> dict[str, Any]:
    if "dtype" not in taken and dtype != jnp.float32:
        raise InputError(f"model {reference!r}: takes no dtype, so compute_dtype must be float32")
    values = {"image_shape": image_shape, "dtype": dtype}
    return {name: value for name, value in values.items() if name in taken}


def _check_complete(
    reference: str, taken: Mapping[str, inspect.Parameter], options: Mapping[str, Any]
) -> None:
    missing = [
        name
        for name, parameter in taken.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and name not in (*options, "rngs")
    ]
    if missing:
        raise InputError(
            f"model {reference!r}: its argument {missing[0]!r} has no default: give it in "
            f'model_args, such as {{"{missing[0]}": 1}}'
        )


def _instantiate(
    network_class: Any, taken: Mapping[str, inspect.Parameter], options: dict[str, Any]
) -> nn.Module:
    if issubclass(network_class, nn.Module):
        return network_class(**options)
    return bridge.ToLinen(
        network_class,
        kwargs=FrozenDict(options),
        skip_rng="rngs" not in taken,
        metadata_fn=None,  # plain arrays, as in a Linen network
    )


def _hashable(value: Any) -> Any:
    """Returns a JSON value with tuples for lists: Linen modules must be hashable."""
    if isinstance(value, list):
        return tuple(map(_hashable, value))
    if isinstance(value, Mapping):
        return FrozenDict({name: _hashable(entry) for name, entry in value.items()})
    return value


def with_dtype(model: UserNetwork, dtype: DTypeLike) -> UserNetwork:
    """Returns the network with another dtype of the computation, if its class takes one."""
    network: Any = model.network
    if isinstance(network, bridge.ToLinen):
        if "dtype" not in network.kwargs:
            return model
        kwargs: Any = FrozenDict({**network.kwargs, "dtype": dtype})
        return model.clone(network=network.clone(kwargs=kwargs))
    if "dtype" not in network.__dataclass_fields__:
        return model
    return model.clone(network=network.clone(dtype=dtype))


def check(model: nn.Module, image_shape: tuple[int, ...], num_outputs: int) -> None:
    """Raises if a network of the user cannot be trained, or mixes the images of a batch.

    It is traced, and then computed once for a few images of noise with random parameters.

    Args:
        model: a network; only one of `create` is checked.
        image_shape: height, width and channels.
        num_outputs: the number of logits that it must return.

    Raises:
        InputError: if the network fails, needs variables other than `params` and `batch_stats`,
            returns anything but floating-point logits [b, num_outputs], or its logits of an image
            in evaluation mode depend on the other images of the batch.
    """
    if isinstance(model, UserNetwork):
        # Once for the same network: teachers of folds, students and sweeps have many of them.
        checked = _check if _is_hashable(model) else _check.__wrapped__
        checked(model, tuple(image_shape), num_outputs)


def _is_hashable(model: nn.Module) -> bool:
    try:
        hash(model)
    except TypeError:  # an argument such as a list
        return False
    return True


@functools.lru_cache(maxsize=32)
def _check(model: UserNetwork, image_shape: tuple[int, ...], num_outputs: int) -> None:
    try:
        variables, outputs = _trace(model, image_shape)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise failure(model.reference, error) from error
    name = f"model {model.reference!r}"
    for output in outputs:
        if output.shape != (_TRACED, num_outputs):
            raise InputError(
                f"{name} returns logits of shape {output.shape} for {_TRACED} images of shape "
                f"{tuple(image_shape)}: must be ({_TRACED}, {num_outputs})"
            )
    if not jax.tree.leaves(variables.get("params", {})):
        raise InputError(f"{name} has no parameters")
    if others := sorted(variables.keys() - COLLECTIONS):
        raise InputError(
            f"{name} has variables of the collection {others[0]!r}: only params and batch_stats "
            "are trained and stored"
        )
    if not _is_separate(model, variables, image_shape):
        raise InputError(
            f"{name}: in evaluation mode (train=False) its logits of an image depend on the other "
            "images of the batch, so that predictions would: normalize with running statistics, or "
            "within each image"
        )


def _is_separate(model: UserNetwork, shapes: dict[str, Any], image_shape: tuple[int, ...]) -> bool:
    """Returns whether an image alone has the logits that it has in a batch, in evaluation mode."""
    rng = np.random.default_rng(0)

    def random(shape: jax.ShapeDtypeStruct) -> np.ndarray:
        # Matrices and kernels keep the scale; vectors are scales, offsets and statistics near 1.
        is_vector = len(shape.shape) < 2
        size = 0.1 if is_vector else np.prod(shape.shape[:-1]) ** -0.5
        return np.asarray(size * rng.normal(size=shape.shape) + is_vector).astype(shape.dtype)

    @jax.jit
    def compute(variables: dict[str, Any], images: jax.Array) -> tuple[jax.Array, jax.Array]:
        evaluate = functools.partial(apply.apply_eval, model, variables)
        return evaluate(images), evaluate(images[:1])

    images = rng.normal(size=(_TRACED, *image_shape)).astype(np.float32)
    images[1:] = 3 * images[1:] + 2  # other statistics than those of the first
    try:
        together, alone = jax.device_get(compute(jax.tree.map(random, shapes), images))
    except (Exception, SystemExit) as error:
        raise failure(model.reference, error) from error
    with np.errstate(invalid="ignore"):  # of infinite logits
        difference = np.max(np.abs(together[:1] - alone))
    return not difference > _BATCH_TOLERANCE * np.max(np.abs(together))


def _trace(
    model: UserNetwork, image_shape: tuple[int, ...]
) -> tuple[dict[str, Any], list[jax.ShapeDtypeStruct]]:
    """Returns the shapes of all variables, and of the logits in evaluation and training mode."""

    def initialize(images: jax.Array) -> dict[str, Any]:
        return apply.init_all(model, jax.random.key(0), images)

    def train(variables: dict[str, Any], images: jax.Array) -> jax.Array:
        return apply.apply_train(model, variables, images, jax.random.key(0))[0]

    images = jax.ShapeDtypeStruct((_TRACED, *image_shape), jnp.float32)
    variables = jax.eval_shape(initialize, images)
    evaluate = functools.partial(apply.apply_eval, model)
    outputs = [jax.eval_shape(each, variables, images) for each in (evaluate, train)]
    return variables, outputs

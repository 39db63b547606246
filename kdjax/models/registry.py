"""Networks by name."""

import functools
import inspect
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from kdjax.errors import InputError, unknown_name_error
from kdjax.models import alexnet, fast_cnn, resnet, user_network
from kdjax.models.common import STEMS
from kdjax.models.user_class import is_reference

_alexnet = functools.partial(alexnet.AlexNet, layers=alexnet.LAYERS, normalize=False)
_alexnet_small = functools.partial(
    alexnet.AlexNet,
    layers=alexnet.SMALL_LAYERS,
    normalize=True,
    large_stem=alexnet.SMALL_LARGE_STEM,
)
_basic = functools.partial(resnet.ResNet, block=resnet.basic)
_bottleneck = functools.partial(resnet.ResNet, block=resnet.bottleneck)
# The networks for CIFAR of He et al. 2015, section 4.2: 6 n + 2 layers, with projections.
_cifar = functools.partial(_basic, width=16)

MODELS: dict[str, Callable[..., nn.Module]] = {
    "alexnet": functools.partial(_alexnet, width=64),
    "alexnet_small": functools.partial(_alexnet_small, width=32),
    "fast_cnn": functools.partial(fast_cnn.FastCNN, width=64),
    "fast_cnn_shallow": functools.partial(fast_cnn.FastCNN, width=64, depth=1),
    "resnet8": functools.partial(_cifar, depths=(1, 1, 1)),
    "resnet14": functools.partial(_cifar, depths=(2, 2, 2)),
    "resnet20": functools.partial(_cifar, depths=(3, 3, 3)),
    "resnet32": functools.partial(_cifar, depths=(5, 5, 5)),
    "resnet44": functools.partial(_cifar, depths=(7, 7, 7)),
    "resnet56": functools.partial(_cifar, depths=(9, 9, 9)),
    "resnet18": functools.partial(_basic, depths=(2, 2, 2, 2), width=64),
    "resnet50": functools.partial(_bottleneck, depths=(3, 4, 6, 3), width=64),
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def create(name: str, num_outputs: int, **options: Any) -> nn.Module:
    """Returns the Linen module of a network, one of `MODELS` or a class of the user.

    `model.apply(variables, images, train, mutable=...)` maps images [b, h, w, c], float, h and w
    at least 8, to logits [b, num_outputs], float32.

    Args:
        name: a key of `MODELS`, `package.module:Class` or `path/to/file.py:Class`.
        num_outputs: number of logits: m, or m+1 with abstention.
        **options: `width`, the channels of the first convolution (default: as published, and 32
            or 16 for the small networks); `dtype` of the computation: "float32" (default) or
            "bfloat16"; `stem` of a network of `MODELS`: "auto" (default), "small" or "large". For
            a class of the user, those of `user_network.create`.

    Raises:
        InputError: for an unknown name, option, dtype or stem, a number below 1, or a class that
            cannot be loaded.
    """
    if is_reference(name):
        return _create_own(name, num_outputs, **options)
    if name not in MODELS:
        raise unknown_name_error("model", name, MODELS)
    for option in options:
        if option not in _PARSERS:
            raise unknown_name_error("model option", option, _PARSERS)
    taken = inspect.signature(MODELS[name]).parameters
    parsed = {option: _PARSERS[option](option, value) for option, value in options.items()}
    for option in parsed:
        if option not in taken:
            raise InputError(f"{option} {options[option]!r}: model {name!r} does not take it")
    return MODELS[name](num_outputs=_count("num_outputs", num_outputs), **parsed)


def with_dtype(model: nn.Module, dtype: DTypeLike) -> nn.Module:
    """Returns a network of `create` with another dtype of the computation, if it has one."""
    if isinstance(model, user_network.UserNetwork):
        return user_network.with_dtype(model, dtype)
    has_dtype = "dtype" in model.__dataclass_fields__
    return model.clone(dtype=dtype) if has_dtype else model


def _create_own(
    reference: str, num_outputs: int, *, stem: str = "auto", **options: Any
) -> nn.Module:
    if stem != "auto":
        raise InputError(
            f"stem {stem!r}: model {reference!r} has its own stem, so it must be 'auto'"
        )
    known = {*inspect.signature(user_network.create).parameters} - {"reference", "num_outputs"}
    for option in options:
        if option not in known:
            raise unknown_name_error("model option", option, known)
    parsed = {
        option: _PARSERS[option](option, value) if option in _PARSERS else value
        for option, value in options.items()
    }
    return user_network.create(reference, _count("num_outputs", num_outputs), **parsed)


def _count(name: str, value: object) -> int:
    if not isinstance(value, numbers.Integral) or value < 1:
        raise InputError(f"{name} = {value!r}: must be an integer of at least 1")
    return int(value)


def _dtype(name: str, value: object) -> DTypeLike:
    if value not in DTYPES:
        raise unknown_name_error(name, value, DTYPES)
    return DTYPES[value]


def _stem(name: str, value: object) -> str:
    if value not in STEMS:
        raise unknown_name_error(name, value, STEMS)
    return str(value)


_PARSERS: Mapping[str, Callable[[str, Any], Any]] = {
    "width": _count,
    "dtype": _dtype,
    "stem": _stem,
}

"""Networks by name."""

import functools
import numbers
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from kdjax.errors import InputError, unknown_name_error
from kdjax.models import alexnet, resnet

_alexnet = functools.partial(alexnet.AlexNet, layers=alexnet.LAYERS, normalize=False)
_alexnet_small = functools.partial(alexnet.AlexNet, layers=alexnet.SMALL_LAYERS, normalize=True)
_basic = functools.partial(resnet.ResNet, block=resnet.basic)
_bottleneck = functools.partial(resnet.ResNet, block=resnet.bottleneck)

MODELS: dict[str, Callable[..., nn.Module]] = {
    "alexnet": functools.partial(_alexnet, width=64),
    "alexnet_small": functools.partial(_alexnet_small, width=32),
    "resnet8": functools.partial(_basic, depths=(1, 1, 1), width=16),
    "resnet14": functools.partial(_basic, depths=(2, 2, 2), width=16),
    "resnet18": functools.partial(_basic, depths=(2, 2, 2, 2), width=64),
    "resnet50": functools.partial(_bottleneck, depths=(3, 4, 6, 3), width=64),
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def create(name: str, num_outputs: int, **options: Any) -> nn.Module:
    """Returns the Linen module of a network.

    `model.apply(variables, images, train, mutable=...)` maps images [b, h, w, c], float, h and w
    at least 8, to logits [b, num_outputs], float32.

    Args:
        name: a key of `MODELS`.
        num_outputs: number of logits: m, or m+1 with abstention.
        **options: `width`, the channels of the first convolution (default: as published, and 32
            or 16 for the small networks), and `dtype` of the computation: "float32" (default) or
            "bfloat16".

    Raises:
        InputError: for an unknown name, option or dtype, or a number below 1.
    """
    if name not in MODELS:
        raise unknown_name_error("model", name, MODELS)
    for option in options:
        if option not in _PARSERS:
            raise unknown_name_error("model option", option, _PARSERS)
    parsed = {option: _PARSERS[option](option, value) for option, value in options.items()}
    return MODELS[name](num_outputs=_count("num_outputs", num_outputs), **parsed)


def _count(name: str, value: object) -> int:
    if not isinstance(value, numbers.Integral) or value < 1:
        raise InputError(f"{name} = {value!r}: must be an integer of at least 1")
    return int(value)


def _dtype(name: str, value: object) -> DTypeLike:
    if value not in DTYPES:
        raise unknown_name_error(name, value, DTYPES)
    return DTYPES[value]


_PARSERS = {"width": _count, "dtype": _dtype}

"""The penultimate features of a network: what its last linear layer reads."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from kdjax.errors import InputError
from kdjax.models import apply, common
from kdjax.models.user_class import failure

_LINEAR: tuple[Any, ...] = (nn.Dense, nnx.Linear)


@dataclasses.dataclass(frozen=True)
class WithFeatures:
    """A network that returns its penultimate features behind its logits.

    The features are the input [b, d] of the last `nn.Dense`, or `nnx.Linear`, that is called with a
    matrix; every network of `kdjax.models` ends with one. It is no Linen module itself, so that the
    variables are those of the network, in each of its forms.

    Attributes:
        network: a Linen network, called as `network(images, train)`.
    """

    network: nn.Module

    def apply(self, variables: Any, images: jax.Array, train: bool) -> jax.Array:
        """Returns [b, outputs + d]: logits, then features; float32 or wider.

        Args:
            variables: of the network.
            images: [b, h, w, c].
            train: as for the network.

        Raises:
            InputError: if the network calls no such layer with a matrix.
        """
        with _recorded_inputs() as inputs:
            logits: Any = self.network.apply(variables, images, train=train)
        features = [array for array in inputs if array.ndim == 2]
        if not features:
            raise InputError(
                f"model {_name(self.network)!r} has no features for the gate mahalanobis: it "
                "calls no flax.linen.Dense or nnx.Linear with a matrix [batch, features]; the gate "
                "energy needs none"
            )
        return jnp.concatenate(list(map(common.at_least_float32, (logits, features[-1]))), axis=1)


@contextlib.contextmanager
def _recorded_inputs() -> Iterator[list[jax.Array]]:
    """Yields a list to which each call of a linear layer appends its input.

    Not by `nn.intercept_methods`: jax2onnx replaces the methods that Flax would intercept.
    """
    inputs: list[jax.Array] = []
    calls = [layer.__call__ for layer in _LINEAR]
    for layer, call in zip(_LINEAR, calls, strict=True):
        layer.__call__ = _recording(call, inputs)
    try:
        yield inputs
    finally:
        for layer, call in zip(_LINEAR, calls, strict=True):
            layer.__call__ = call


def _recording(call: Callable[..., Any], inputs: list[jax.Array]) -> Callable[..., Any]:
    @functools.wraps(call)
    def record(layer: Any, *args: Any, **kwargs: Any) -> Any:
        inputs.append(args[0] if args else kwargs["inputs"])
        return call(layer, *args, **kwargs)

    return record


def check_features(model: nn.Module, image_shape: tuple[int, ...]) -> None:
    """Raises if a network has no penultimate features; it is only traced.

    Args:
        model: the network.
        image_shape: height, width and channels.

    Raises:
        InputError: in one line.
    """
    variables = apply.abstract_variables(model, image_shape)
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    try:
        jax.eval_shape(
            lambda given, batch: WithFeatures(model).apply(given, batch, train=False),
            variables,
            images,
        )
    except InputError:
        raise
    except Exception as error:  # of code of the user, of any type
        raise failure(_name(model), error) from error


def _name(network: nn.Module) -> str:
    return str(getattr(network, "reference", type(network).__name__))

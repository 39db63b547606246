"""The size of a network: its parameters, and its multiply-adds for one image."""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.models import apply
from kdjax.models.cpu import convolution


class Cost(NamedTuple):
    """The size of a network.

    Attributes:
        parameters: trained numbers; running batch statistics are not counted.
        multiply_adds: of one image in evaluation mode, see `cost`.
    """

    parameters: int
    multiply_adds: int


@functools.cache
def cost(model: nn.Module, image_shape: tuple[int, ...]) -> Cost:
    """Returns the size of a network, from the shapes alone.

    A convolution with kernels [kh, kw, c, d] and outputs [h, w, d] has h w d kh kw c multiply-adds,
    and a product of [n, k] and [k, d] has n k d. As in published counts, products with the padding
    are included; normalization, activations, pooling and biases are not. The algorithm that
    computes a convolution (`models/cpu`) does not change the count.

    Args:
        model: called as `model(images, train)`.
        image_shape: height, width and channels.
    """
    variables = apply.abstract_variables(model, image_shape)
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    with convolution.nominal():
        program = jax.make_jaxpr(lambda *args: apply.apply_eval(model, *args))(variables, images)
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    return Cost(parameters, _count(program.jaxpr))


def _count(jaxpr: Any) -> int:
    return sum(map(_count_equation, jaxpr.eqns))


def _count_equation(equation: Any) -> int:
    """Returns the multiply-adds of one operation, or of the programs that it calls."""
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return _size(equation.outvars[0]) * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = kernel[params["dimension_numbers"].rhs_spec[0]]
        products = _size(equation.outvars[0]) * math.prod(kernel) // outputs
        # Of a dilated input, as in a transposed convolution, most pixels are zeros.
        return products // math.prod(params["lhs_dilation"])
    counts = [_count(inner) for inner in _inner_programs(params)]
    if name == "cond":  # one branch is executed
        return max(counts)
    return sum(counts) * (params["length"] if name == "scan" else 1)


def _size(variable: Any) -> int:
    return math.prod(variable.aval.shape)


def _inner_programs(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for entry in value if isinstance(value, (tuple, list)) else (value,):
            program = getattr(entry, "jaxpr", entry)
            if hasattr(program, "eqns"):
                yield program

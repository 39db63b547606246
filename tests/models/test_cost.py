"""Parameters and multiply-adds against published values and by hand."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from kdjax import models
from kdjax.config import FAST_PAIRS, PAIRS
from kdjax.models.cost import Cost, cost


@pytest.mark.parametrize(
    ("name", "outputs", "size", "parameters", "giga"),
    [
        # The networks for CIFAR-10, as in github.com/kuangliu/pytorch-cifar.
        ("resnet18", 10, 32, 11_173_962, 0.56),
        pytest.param("resnet50", 10, 32, 23_520_842, 1.30, marks=pytest.mark.slow),
        # The networks for CIFAR-10 of arXiv 1512.03385, with projections.
        ("resnet20", 10, 32, 272_474, 0.041),
        pytest.param("resnet56", 10, 32, 855_770, 0.126, marks=pytest.mark.slow),
        # The networks for ImageNet, as in the table of torchvision's models.
        pytest.param("resnet18", 1000, 224, 11_689_512, 1.81, marks=pytest.mark.slow),
        pytest.param("resnet50", 1000, 224, 25_557_032, 4.09, marks=pytest.mark.slow),
    ],
)
def test_cost_equals_the_published_values(name, outputs, size, parameters, giga) -> None:
    values = cost(models.create(name, outputs), (size, size, 3))
    assert values.parameters == parameters
    assert values.multiply_adds / 1e9 == pytest.approx(giga, abs=0.005 if giga > 0.2 else 0.0005)


def test_cost_of_alexnet_by_hand() -> None:
    """32x32 pixels: 8x8 after the first layer, then 4x4, 2x2 three times, and one."""
    convolutions = (
        (64, 11 * 11 * 3 * 64),
        (16, 5 * 5 * 64 * 192),
        (4, 3 * 3 * 192 * 384),
        (4, 3 * 3 * 384 * 256),
        (4, 3 * 3 * 256 * 256),
    )
    expected = sum(pixels * products for pixels, products in convolutions) + 256 * 10
    assert cost(models.create("alexnet", 10), (32, 32, 3)) == Cost(2_472_266, expected)


class Unusual(nn.Module):
    """Products that are not layers of Flax, groups, a loop and a branch."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        grouped = nn.Conv(8, (3, 3), feature_group_count=4, use_bias=False)(images)
        spread = nn.ConvTranspose(2, (2, 2), strides=(2, 2), use_bias=False)(grouped)
        weight: Any = self.param("weight", nn.initializers.normal(), (2, 2))
        looped, _ = jax.lax.scan(lambda x, _: (x @ weight, None), spread, length=3)
        larger = jax.lax.cond(
            jnp.sum(looped) > 0, lambda x: x @ weight @ weight, lambda x: x, looped
        )
        return jnp.einsum("bhwc,cd->bd", larger, weight)


def test_cost_counts_products_of_any_form_once() -> None:
    values = cost(Unusual(), (8, 8, 4))
    grouped, transposed = 64 * 9 * 8, 64 * 4 * 8 * 2
    loop = branch = 256 * 2 * 2
    assert values.parameters == 9 * 8 + 4 * 8 * 2 + 4
    # The einsum sums over the pixels before or within the product.
    assert values.multiply_adds - grouped - transposed - 3 * loop - 2 * branch in (4, 256 * 4)


@functools.cache  # several pairs have the same networks
def cost_of(name: str, outputs: int, size: int) -> Cost:
    return cost(models.create(name, outputs), (size, size, 3))


@pytest.mark.slow
@pytest.mark.parametrize("size", [8, 32, 64, 224])
@pytest.mark.parametrize("pair", [*PAIRS.values(), *FAST_PAIRS.values()], ids="-".join)
def test_teacher_of_each_default_pair_is_larger_than_its_student(pair, size) -> None:
    teacher, student = cost_of(pair[0], 10, size), cost_of(pair[1], 11, size)
    assert teacher.parameters > student.parameters
    assert teacher.multiply_adds > student.multiply_adds

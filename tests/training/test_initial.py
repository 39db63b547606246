"""Initial weights: which variables are taken, and which start at random."""

from typing import Any

import numpy as np
import pytest

from kdjax.errors import InputError
from kdjax.training.initial import InitialWeights, fit

CLASSES = 3
HEAD = frozenset({("params", "head", "kernel"), ("params", "head", "bias")})


def network(outputs: int, value: float, features: int = 4) -> dict[str, Any]:
    """The variables of a student with the given number of outputs, all of one value."""
    return {
        "params": {
            "conv": {"kernel": np.full((3, 3, 1, features), value, np.float32)},
            "head": {
                "kernel": np.full((features, outputs), value, np.float32),
                "bias": np.full(outputs, value, np.float32),
            },
        },
        "batch_stats": {"norm": {"mean": np.full(features, value, np.float32)}},
    }


def given(variables: dict[str, Any], same_classes: bool = True) -> InitialWeights:
    arrays = {
        f"{collection}.{layer}.{name}": array
        for collection, layers in variables.items()
        for layer, leaves in layers.items()
        for name, array in leaves.items()
    }
    return InitialWeights("file.safetensors", arrays, HEAD, same_classes, CLASSES)


def test_all_weights_are_taken_if_they_fit() -> None:
    variables, note = fit(network(CLASSES + 1, 0), given(network(CLASSES + 1, 2)))
    assert note == ""
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"], np.full((4, 4), 2))
    np.testing.assert_array_equal(variables["batch_stats"]["norm"]["mean"], np.full(4, 2))


def test_abstention_output_starts_at_random_if_the_weights_have_only_the_classes() -> None:
    variables, note = fit(network(CLASSES + 1, 0.5), given(network(CLASSES, 2)))
    assert note == "the abstention output"
    np.testing.assert_array_equal(variables["params"]["head"]["bias"], [2, 2, 2, 0.5])
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"][:, -1], np.full(4, 0.5))
    np.testing.assert_array_equal(variables["params"]["conv"]["kernel"], np.full((3, 3, 1, 4), 2))


@pytest.mark.parametrize(
    ("outputs", "same_classes", "words"),
    [(1000, True, "has another size"), (4, False, "is of other classes"), (3, False, "of other")],
)
def test_last_layer_of_another_task_starts_at_random(outputs, same_classes, words) -> None:
    weights = given(network(outputs, 2), same_classes)
    variables, note = fit(network(CLASSES + 1, 0.5), weights)
    assert note.startswith("the last layer, which ") and words in note
    np.testing.assert_array_equal(variables["params"]["head"]["bias"], np.full(4, 0.5))
    np.testing.assert_array_equal(variables["params"]["conv"]["kernel"], np.full((3, 3, 1, 4), 2))


def test_batch_statistics_that_are_not_given_start_as_for_random_weights() -> None:
    variables = network(CLASSES + 1, 2) | {"batch_stats": {}}
    fitted, note = fit(network(CLASSES + 1, 0), given(variables))
    assert note == "the batch statistics"
    np.testing.assert_array_equal(fitted["batch_stats"]["norm"]["mean"], np.zeros(4))


def test_weights_of_another_network_are_refused_with_the_name_and_shapes() -> None:
    with pytest.raises(InputError, match=r"file.safetensors.*params.conv.kernel has shape"):
        fit(network(CLASSES + 1, 0), given(network(CLASSES + 1, 2, features=5)))
    surplus = given(network(CLASSES + 1, 2))
    surplus = surplus._replace(arrays={**surplus.arrays, "params.conv2.kernel": np.zeros(3)})
    with pytest.raises(InputError, match=r"1 that it does not have: params.conv2.kernel"):
        fit(network(CLASSES + 1, 0), surplus)

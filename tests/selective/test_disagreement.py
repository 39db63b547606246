"""The disagreement of several networks, against scipy's entropy."""

import numpy as np
import pytest
import scipy.special
import scipy.stats

from kdjax.errors import InputError
from kdjax.selective import mutual_information


def entropy_difference(logits: np.ndarray) -> np.ndarray:
    """H(mean_k p_k) - mean_k H(p_k) as written, [n]."""
    probs = scipy.special.softmax(np.float64(logits), axis=-1)
    total = scipy.stats.entropy(probs.mean(axis=0), axis=-1)
    return total - scipy.stats.entropy(probs, axis=-1).mean(axis=0)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_mutual_information_is_the_difference_of_the_entropies(scale) -> None:
    logits = np.random.default_rng(0).normal(scale=scale, size=(5, 40, 7))
    np.testing.assert_allclose(
        mutual_information(logits.astype(np.float32)),
        entropy_difference(logits.astype(np.float32)),
        rtol=1e-7,
        atol=1e-12,
    )


def test_mutual_information_has_the_known_extremes() -> None:
    same = np.broadcast_to(np.random.default_rng(0).normal(size=(6, 4)), (3, 6, 4))
    np.testing.assert_allclose(mutual_information(same), 0, atol=1e-15)
    apart = 1e4 * np.eye(3)[:, None]  # each of three networks is sure of another class
    np.testing.assert_allclose(mutual_information(apart), np.log(3), rtol=1e-12)


def test_mutual_information_is_never_negative_or_undefined() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 1000, 5)) + 1e-9 * rng.normal(size=(4, 1, 1))
    logits[:, ::2] = logits[:1, ::2] * (1 + 1e-16)  # equal up to rounding
    for scale in (1e-6, 1.0, 1e4):
        values = mutual_information(scale * logits)
        assert np.isfinite(values).all() and (values >= 0).all()


@pytest.mark.parametrize("shape", [(3,), (0, 2, 3), (2, 3, 0)])
def test_shapes_without_networks_or_classes_are_refused(shape) -> None:
    with pytest.raises(InputError, match=r"must be \[networks"):
        mutual_information(np.zeros(shape))

"""Loss functions of logits: pure, computed in log space, one value per example.

Each function reduces the class axis only (`dist` also compares the examples of a batch), computes
in float32 (in float64 for float64 input if `jax_enable_x64` is set) and can be jitted, vmapped and
differentiated. The last column of `m+1` logits is abstention. A payoff, temperature or weight is a
scalar, or an array `[...]` with one value per example.
"""

from kdjax.losses import labels, teachers
from kdjax.losses.labels import *  # noqa: F403
from kdjax.losses.teachers import *  # noqa: F403

__all__: list[str] = []
__all__ += labels.__all__
__all__ += teachers.__all__

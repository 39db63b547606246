"""Linen networks by name, and their inference form."""

from kdjax.models.common import NORM_MOMENTUM
from kdjax.models.folding import fold_batch_norm
from kdjax.models.registry import DTYPES, MODELS, create, with_dtype

__all__ = ["DTYPES", "MODELS", "NORM_MOMENTUM", "create", "fold_batch_norm", "with_dtype"]

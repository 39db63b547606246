"""Data sets as arrays: loading, splitting, batching and augmentation."""

from kdjax.data.dataset import (
    Dataset,
    Split,
    dataset_metadata,
    is_prepared,
    limit_examples,
    load,
)

__all__ = ["Dataset", "Split", "dataset_metadata", "is_prepared", "limit_examples", "load"]

"""Data sets as arrays: loading, splitting, batching and augmentation."""

from kdjax.data.dataset import (
    FITS,
    Dataset,
    Split,
    dataset_metadata,
    is_prepared,
    limit_examples,
    load,
)

__all__ = [
    "FITS",
    "Dataset",
    "Split",
    "dataset_metadata",
    "is_prepared",
    "limit_examples",
    "load",
]

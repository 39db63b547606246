"""Data sets as arrays: loading, splitting, batching and augmentation."""

from kdjax.data.dataset import Dataset, Split, dataset_metadata, is_prepared, load, take_first

__all__ = ["Dataset", "Split", "dataset_metadata", "is_prepared", "load", "take_first"]

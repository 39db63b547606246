"""TFDS sets as arrays: prepared once, decoded once, cut into train, dev and test."""

from kdjax.data.dataset import Dataset, Split, head, load, prepared

__all__ = ["Dataset", "Split", "head", "load", "prepared"]

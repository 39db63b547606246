"""Preparation and reading of TensorFlow Datasets (TFDS), without TensorFlow."""

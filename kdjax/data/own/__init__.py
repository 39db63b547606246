"""Own images, without TensorFlow Datasets: folders, CSV files and npz files."""

from kdjax.data.own.labelled import LabelledImages, read_labelled
from kdjax.data.own.names import Location, check_outside, missing_error, parse

__all__ = ["LabelledImages", "Location", "check_outside", "missing_error", "parse", "read_labelled"]

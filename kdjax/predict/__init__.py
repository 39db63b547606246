"""Prediction with an exported model: `load(path)(images)`."""

from kdjax.predict.cascade import Cascade, CascadePrediction, load_cascade
from kdjax.predict.model import BATCH_SIZE, Model, Prediction, load

__all__ = [
    "BATCH_SIZE",
    "Cascade",
    "CascadePrediction",
    "Model",
    "Prediction",
    "load",
    "load_cascade",
]

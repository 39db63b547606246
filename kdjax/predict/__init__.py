"""Prediction with an exported model: `load(path)(images)`."""

from kdjax.predict.model import BATCH_SIZE, Model, Prediction, load

__all__ = ["BATCH_SIZE", "Model", "Prediction", "load"]

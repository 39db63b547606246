"""Convolutions and batch normalization in forms that XLA:CPU compiles to fast code."""

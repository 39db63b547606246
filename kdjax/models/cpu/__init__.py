"""Convolutions in forms that XLA:CPU compiles to fast code; other backends do not need them."""

"""Distil a large image classifier into a small one that knows when to abstain."""

__version__ = "0.1.0"

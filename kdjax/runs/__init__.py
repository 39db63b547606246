"""Workdirs: their metadata, their lock, and how to load what a run left in them."""

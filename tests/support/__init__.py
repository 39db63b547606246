"""Helper code that several tests share."""

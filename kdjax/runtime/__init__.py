"""Devices, processes, compiler options and files: what every layer above stands on."""

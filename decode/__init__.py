"""Decode brain recordings into what was seen, heard or read."""

__version__ = "0.1.0"

"""Predicted vectors -> media: one file per generator."""

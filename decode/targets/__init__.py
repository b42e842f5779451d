"""Stimuli -> vectors: one file per feature extractor."""

"""A recording -> windows, with nothing fitted across runs."""

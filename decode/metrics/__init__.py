"""Results -> rows of scores: one file per family."""

"""How wrong predictions are: one file per loss."""

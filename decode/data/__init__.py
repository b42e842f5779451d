"""Raw files -> recordings and stimuli: one file per data set."""

"""Which trials are trained on and tested on: one file per way of splitting."""

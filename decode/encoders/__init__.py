"""Brain windows -> predicted vectors: one file per encoder."""

"""Pages for readers: one self-contained HTML report per run, and an index of all runs."""

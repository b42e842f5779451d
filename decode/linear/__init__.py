"""Ridge regression of all targets and strengths from one factorisation."""

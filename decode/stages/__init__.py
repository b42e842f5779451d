"""What each stage does: one file per stage."""

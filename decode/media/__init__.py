"""What is shown and made, one file per kind: its endings, checks, reading, writing, mean and view."""

"""Speed and memory, both sides in one run; `make bench` writes one table."""

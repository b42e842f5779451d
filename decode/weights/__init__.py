"""Published weights: where they are, how they are read, and from whose layout into whose."""

"""What can be found wrong with a config before anything runs."""

"""What samplers are made of: pipelines, the loop, schedules, energies, hints, and noise to learn from."""

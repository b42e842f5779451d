"""Steps of preprocessing, a recording of a recording, and what cuts trials: one file per step."""

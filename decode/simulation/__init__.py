"""Participants who look at drawn scenes: known physics, known noise."""

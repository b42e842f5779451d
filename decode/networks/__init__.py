"""Blocks of encoders: layers per subject, attention, heads, priors, flows, and what losses share."""

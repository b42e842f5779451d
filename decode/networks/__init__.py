"""Shared network pieces and the loading of published weights."""

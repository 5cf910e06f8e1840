"""Judges: verdicts from a model that reads both answers."""

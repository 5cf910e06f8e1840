"""Prompt generators, one per file."""

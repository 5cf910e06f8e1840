"""Filters that keep a row, or drop it with a reason."""

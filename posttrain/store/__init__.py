"""Stages as content-addressed artifacts."""

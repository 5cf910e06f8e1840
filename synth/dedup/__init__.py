"""Exact and near duplicates, and overlap with evaluation prompts."""

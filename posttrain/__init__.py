"""Llama-3.1-style alignment rounds from one recipe."""

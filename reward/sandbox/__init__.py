"""Run model-written Python where it can reach nothing: no network, no files, no other process, bounded resources."""

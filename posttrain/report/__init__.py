"""One self-contained page per run, and the same as JSON."""

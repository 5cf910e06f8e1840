"""What to say: prompts, completions, filters and deduplication."""

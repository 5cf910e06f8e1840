"""Templates of prompt generators as text files; line 1 of each names its paper."""

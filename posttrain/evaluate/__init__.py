"""Win rates, ratings and the promotion gate."""

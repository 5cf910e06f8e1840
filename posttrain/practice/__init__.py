"""The practice world: tasks with a gold score, and tiny models pretrained on it."""

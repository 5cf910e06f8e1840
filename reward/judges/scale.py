"""The scale of ratings where nobody names another."""

LOWEST = 1
HIGHEST = 5

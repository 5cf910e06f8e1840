"""Verifiers: a score and a reason for checkable answers."""

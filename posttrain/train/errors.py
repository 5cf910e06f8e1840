"""Errors of training."""

from __future__ import annotations

from posttrain.core.errors import PosttrainError


class TrainError(PosttrainError, RuntimeError):
    """Report a training run that would be wrong, or has gone wrong; the message says what to do."""

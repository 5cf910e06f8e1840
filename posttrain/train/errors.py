"""Errors of training."""

from __future__ import annotations

from posttrain.core.errors import PosttrainError


class TrainError(PosttrainError, RuntimeError):
    """Report a training run that would be wrong, or has gone wrong; the message says what to do."""


class TrainingInterrupted(TrainError):
    """Report a training that was told to stop and saved its state; the same command goes on from there."""

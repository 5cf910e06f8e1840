"""Errors of scoring, selecting and judging."""

from __future__ import annotations

from typing import Any

from posttrain.core.errors import PosttrainError


class RewardError(PosttrainError, ValueError):
    """Report scores, verifiers or judges that cannot be used."""


class TooManyErrors(RewardError):
    """Report a verifier that failed on too many rows; `rows` holds what it had computed until then."""

    def __init__(self, message: str, rows: list[dict[str, Any]]) -> None:
        super().__init__(message)
        self.rows = rows

"""What happens to rows on their way into training: kept, cut or dropped, counted and reported."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from posttrain.config import TrainConfig
from posttrain.core.errors import DataError


@dataclass
class Intake:
    """Count rows that were cut to max_tokens or dropped, and refuse too many of them.

    Attributes:
        num_rows: rows that came in.
        num_truncated: rows cut, or dropped because what they teach lies beyond max_tokens.
        dropped: count by reason.
    """

    num_rows: int
    num_truncated: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def drop(self, reason: str) -> None:
        """Count a row that is left out."""
        self.dropped[reason] += 1

    def drop_too_long(self) -> None:
        """Count a row of which max_tokens leaves nothing to learn."""
        self.num_truncated += 1
        self.drop("longer than max_tokens")

    def check(self, config: TrainConfig) -> None:
        """Refuse data of which too much would be cut or left out.

        Raises:
            DataError: more rows cut than max_truncated_rate, more dropped than max_drop_rate, or none left.
        """
        if self.num_truncated > config.max_truncated_rate * self.num_rows:
            share = self.num_truncated / self.num_rows
            raise DataError(
                f"{self.num_truncated} of {self.num_rows} rows ({share:.1%}) are longer than max_tokens "
                f"{config.max_tokens}, more than max_truncated_rate {config.max_truncated_rate}. Raise max_tokens, or "
                f"allow it with max_truncated_rate={share:.3f}."
            )
        others = sum(count for reason, count in self.dropped.items() if reason != "longer than max_tokens")
        if others > config.max_drop_rate * self.num_rows:
            reasons = ", ".join(f"{count} × {reason}" for reason, count in self.dropped.most_common())
            raise DataError(
                f"{others} of {self.num_rows} rows have nothing to learn from ({reasons}), more than max_drop_rate "
                f"{config.max_drop_rate}. Look at them with --show-tokens, or raise max_drop_rate."
            )
        if sum(self.dropped.values()) >= self.num_rows:
            raise DataError(f"none of {self.num_rows} rows is left to train on: {dict(self.dropped)}.")

    def summary(self) -> dict[str, Any]:
        """Return the counts for the stage's metrics."""
        return {
            "num_rows": self.num_rows,
            "num_trained": self.num_rows - sum(self.dropped.values()),
            "num_truncated": self.num_truncated,
            "dropped": dict(self.dropped),
        }

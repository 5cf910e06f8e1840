"""Errors of this project: messages that say what, with the value, where, and what to do."""

from __future__ import annotations

MISFITS: tuple[type[Exception], ...] = (
    AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What a model's own code raises where it is run in a way that it was not written for."""


class PosttrainError(Exception):
    """Be the root of all errors that a user can mend; the command line prints it without a traceback."""


class DataError(PosttrainError, ValueError):
    """Report rows or files whose content cannot be used."""


class ModelError(PosttrainError, ValueError):
    """Report a model folder or tokenizer that cannot be used."""


class StorageError(PosttrainError, OSError):
    """Report a disk that refused a write; what was written before is intact."""


class ClusterError(PosttrainError, RuntimeError):
    """Report a cluster that cannot be reached, or workers on it that keep dying; what was handed back is kept."""


class Faults:
    """Collect faults, so that a user sees all of them at once instead of one per attempt.

    Args:
        where: what was looked at, a file name for example; the first line of the message.
        limit: how many faults are spelled out; the others are counted.
    """

    def __init__(self, where: str, limit: int = 20) -> None:
        self.where = where
        self.limit = limit
        self.messages: list[str] = []

    def add(self, message: str) -> None:
        """Note one fault."""
        self.messages.append(message)

    def __bool__(self) -> bool:
        return bool(self.messages)

    def __len__(self) -> int:
        return len(self.messages)

    def raise_if_any(self, error: type[PosttrainError]) -> None:
        """Raise one `error` that lists the faults, or do nothing where there are none."""
        if not self.messages:
            return
        lines = [f"  - {message}" for message in self.messages[: self.limit]]
        if len(self.messages) > self.limit:
            lines.append(f"  - … and {len(self.messages) - self.limit} more")
        count = len(self.messages)
        raise error(f"{self.where}: {count} fault{'s' if count > 1 else ''}\n" + "\n".join(lines))

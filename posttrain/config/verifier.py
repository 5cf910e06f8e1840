"""What a verifier is and how it runs, whether it labels or judges."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from posttrain.config.base import PositiveFloat, PositiveInt, Probability, Section, how
from reward.verifiers.settings import VerifierSettings

_DEFAULTS = VerifierSettings()


class VerifierSection(Section):
    """A verifier with its options and limits; the limits decide which answers have a score, and are identity."""

    kind: Literal["verifier"] = "verifier"
    function: str = Field(json_schema_extra={"how": True})
    """FILE.py:FUNCTION or package.module:function, `verify(prompt, completion, row)`; or a built-in one: exact, number,
    regex, json_schema, math, code. Its identity is its name and the content of its file, not where that lies."""
    options: dict[str, Any] = {}
    """Further keyword arguments of the function, for example `tolerance: 0.01` of `number`."""
    timeout_s: PositiveFloat = _DEFAULTS.timeout_s
    """Seconds for one row; a row that takes longer is an error, never a zero."""
    memory_mb: PositiveInt = _DEFAULTS.memory_mb
    """Address space of the verifier's process, in MiB."""
    max_error_rate: Probability = how(_DEFAULTS.max_error_rate)
    """Share of rows that may be errors before the stage stops; what was scored until then is kept."""

    def settings(self, workers: int, max_error_rate: float | None = None) -> VerifierSettings:
        """Return how the verifier runs.

        Args:
            workers: child processes at once.
            max_error_rate: share of rows that may fail, where it is not the section's own.
        """
        share = self.max_error_rate if max_error_rate is None else max_error_rate
        return VerifierSettings(self.options, self.timeout_s, self.memory_mb, share, workers)

"""Errors of `synth`."""

from __future__ import annotations

from posttrain.core.errors import PosttrainError


class SynthError(PosttrainError, ValueError):
    """Report rows, templates or settings from which no usable data can be made."""


class MalformedRow(SynthError):
    """Report one row that cannot be read; filters turn it into a drop with that reason."""

"""The answers that a training stage learns from, with what tells where each came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from posttrain.stages import STAGES

TRAINING_FILES = {
    "sft": ("selected", "sft.jsonl"),
    "dpo": ("selected", "pairs.jsonl"),
    "reward_model": ("preferences", "preferences.jsonl"),
}
"""By stage: the input that holds what it trains on, and the file there."""


def makes_model(stage: str) -> bool:
    """Tell whether what a stage makes is a model, so that it holds no rows."""
    return stage in STAGES and STAGES[stage].writes == "model"


class Answer(NamedTuple):
    """One answer of a training row: an SFT row has one, a pair two.

    Attributes:
        prompt_id: Of its prompt.
        role: `sft`, `chosen` or `rejected`; `edited` for a chosen answer that nobody sampled.
        sample_index: Which of the prompt's samples; None where it is none.
        source: Of the prompt: a generator's name, `file`, `practice`.
        round: That drew the sample.
        model: What names the model that wrote it; None for a person or a verifier.
        score: What it was chosen by; None where it has none.
    """

    prompt_id: str
    role: str
    sample_index: int | None
    source: str | None
    round: int | None
    model: str | None
    score: float | None


def answers_of(file_name: str, row: Mapping[str, Any]) -> list[Answer]:
    """Return the answers of a row of a training file; of other files none."""
    if file_name == "sft.jsonl":
        return [_answer(row, "sft", "")]
    if file_name in ("pairs.jsonl", "preferences.jsonl"):
        chosen = "edited" if row.get("chosen_edited") else "chosen"
        return [_answer(row, chosen, "chosen_"), _answer(row, "rejected", "rejected_")]
    return []


def _answer(row: Mapping[str, Any], role: str, side: str) -> Answer:
    def of(name: str, kind: type | tuple[type, ...]) -> Any:
        value = row.get(side + name)
        return value if isinstance(value, kind) and not isinstance(value, bool) else None

    model = of("model", str)
    if model is None and role != "edited":  # pairs of one model may name it once
        model = row.get("model") if isinstance(row.get("model"), str) else None
    number, source = row.get("round"), row.get("source")
    return Answer(
        row["prompt_id"],
        role,
        of("sample_index", int),
        source if source is None else _whole(str(source)),
        number if isinstance(number, int) else None,
        model if model is None else _whole(model),
        None if (score := of("score", (int, float))) is None else float(score),
    )


def _whole(text: str) -> str:
    """Return the text with `?` for half of a surrogate pair, which JSON can hold and a database cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")

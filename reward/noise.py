"""The noise of a scoring run: how far scores move with their batch, and how many choices that leaves open."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.core.files import atomic_write
from reward.ids import completion_text

MOST_ROWS = 64
_ROWS_OF_A_PROMPT = 8


class Noise(NamedTuple):
    """Hold what was measured; see `reward.parity.Parity`."""

    rows: int
    max_difference: float | None
    why_padded: str | None


def spread(groups: Sequence[Hashable], most: int) -> list[int]:
    """Choose up to `most` rows, from prompts that stand evenly over the rows, up to eight rows of a prompt.

    Args:
        groups: the prompt of each row.

    Returns:
        Indices into `groups`, of one prompt side by side.
    """
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    prompts = list(members.values())
    size = min(_ROWS_OF_A_PROMPT, max(map(len, prompts), default=1))
    step = max(1, len(prompts) * size // most)
    return [index for rows in prompts[::step] for index in rows[:_ROWS_OF_A_PROMPT]][:most]


def noise_path(out: Path) -> Path:
    """Say where a run keeps its noise: measured once, so that a run that was killed and goes on reports the same."""
    return out / "journal" / "noise.json"


def write_noise(out: Path, noise: Noise) -> None:
    """Keep what was measured."""
    kept = {"rows": noise.rows, "max_difference": noise.max_difference}
    atomic_write(noise_path(out), json.dumps({"noise": kept, "padded_because": noise.why_padded}))


def noise_summary(out: Path, scored: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Give the fields of `summary.json` that tell of noise; null where none was measured."""
    if not noise_path(out).exists():
        return {"noise": None, "undecided_prompts": None, "padded_because": None}
    kept: dict[str, Any] = json.loads(noise_path(out).read_text(encoding="utf-8"))
    largest = kept["noise"]["max_difference"]
    undecided = None if largest is None else undecided_prompts(scored, largest)
    return {"noise": kept["noise"], "undecided_prompts": undecided, "padded_because": kept["padded_because"]}


def undecided_prompts(scored: Iterable[Mapping[str, Any]], max_difference: float) -> int:
    """Count the prompts whose best completion leads the next best, of another text, by less than the noise.

    Args:
        scored: rows with `prompt_id`, `completion` and `score`.
    """
    best: dict[str, dict[str, float]] = {}
    for row in scored:
        texts = best.setdefault(row["prompt_id"], {})
        text = completion_text(row["completion"])
        texts[text] = max(row["score"], texts.get(text, row["score"]))
    leads = [sorted(texts.values())[-2:] for texts in best.values() if len(texts) > 1]
    return sum(first - second < max_difference for second, first in leads)

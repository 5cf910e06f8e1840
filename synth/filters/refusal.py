"""Tell refusals from apologies inside good answers, and cap the refusals' share."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal

from posttrain.core.files import content_hash
from posttrain.core.reasoning import without_thought
from synth.errors import MalformedRow
from synth.filters.partition import Dropped, Kept
from synth.rows import Row, completion_text, copies
from synth.words import fold, words

Verdict = Literal["refusal", "apology", "none"]

# Where a refusal shows itself, and how long one is (Evol-Instruct's rule: "sorry" in fewer than 80 words).
_OPENING_CHARACTERS = 250
_MAX_REFUSAL_WORDS = 80
_QUOTED = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]{0,999}`|“[^”]{0,999}”|«[^»]{0,999}»|„[^“”]{0,999}[“”]|「[^」]{0,999}」|\"[^\"\n]{0,999}\"|(?<!\w)'[^'\n]{3,999}'(?!\w)|^>.*$",
    re.DOTALL | re.MULTILINE,
)


def refusal_verdict(text: str) -> Verdict:
    """Say whether an answer refuses, apologises while it answers, or neither.

    Phrases of eight languages are looked for in the first 250 characters, outside thoughts, quotes
    and code. A refusing phrase
    in a text of fewer than 80 words is a refusal; in a longer one, which goes on to answer, an apology. Phrase lists
    miss refusals without a set phrase: treat the verdict as a count to watch, and audit it.
    """
    plain = " ".join(fold(_QUOTED.sub(" ", without_thought(text))).replace("’", "'").split())
    opening = plain[:_OPENING_CHARACTERS]
    refuses, apologises = _phrases()
    if refuses.search(opening):
        return "refusal" if len(words(plain)) < _MAX_REFUSAL_WORDS else "apology"
    return "apology" if apologises.search(opening) else "none"


def label_refusals(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Add `refusal`: the verdict on each row's completion, or None where it cannot be read."""
    labelled = copies(rows)
    for row in labelled:
        try:
            row["refusal"] = refusal_verdict(completion_text(row))
        except MalformedRow:
            row["refusal"] = None
    return labelled


def cap_refusals(
    rows: Iterable[Mapping[str, Any]],
    max_share: float,
    group_by: str = "source",
    protected: Callable[[Row], bool] = lambda row: False,
) -> tuple[Kept, Dropped]:
    """Drop refusals until they are at most `max_share` of what is kept in each group.

    Some refusals are right, so their share is balanced and they are not simply deleted (Llama 3.1, 4.2.3). Which go is
    decided by a hash of id and sample index: the same whatever the order of the rows.

    Args:
        max_share: in [0, 1]; 0 drops every refusal that is not protected.
        group_by: the column whose values are balanced apart; rows without it form one group.
        protected: says which refusals stay, those of unsafe prompts for example; they count into the share.

    Returns:
        kept and dropped rows in input order, `refusal` added; the reason is `refusal`.
    """
    labelled = label_refusals(rows)
    groups: dict[Any, list[int]] = defaultdict(list)
    for position, row in enumerate(labelled):
        groups[row.get(group_by)].append(position)
    surplus: set[int] = set()
    for members in groups.values():
        refusals = [position for position in members if labelled[position]["refusal"] == "refusal"]
        excess = len(refusals) - _allowed(len(members) - len(refusals), len(refusals), max_share)
        removable = [position for position in refusals if not protected(labelled[position])]
        surplus.update(sorted(removable, key=lambda position: _lot(labelled[position]))[: max(0, excess)])
    kept = [row for position, row in enumerate(labelled) if position not in surplus]
    dropped = [{**labelled[position], "drop_reason": "refusal"} for position in sorted(surplus)]
    return kept, dropped


def _allowed(num_others: int, num_refusals: int, max_share: float) -> int:
    if max_share >= 1.0:
        return num_refusals
    # r / (r + others) <= share; the small term keeps 0.1 * 90 / 0.9 from becoming 9.99….
    return min(num_refusals, int(max_share * num_others / (1.0 - max_share) + 1e-9))


def _lot(row: Row) -> str:
    return content_hash([str(row.get("prompt_id")), row.get("sample_index"), completion_text(row)])


@lru_cache(maxsize=1)
def _phrases() -> tuple[re.Pattern[str], re.Pattern[str]]:
    return _pattern("refusals.txt"), _pattern("apologies.txt")


def _pattern(name: str) -> re.Pattern[str]:
    text = files("synth.filters").joinpath(name).read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines()]
    return re.compile("|".join(_phrase(line) for line in lines if line and not line.startswith("#")))


def _phrase(line: str) -> str:
    # Split first: NFKC makes three dots of the one character that stands for up to three words.
    parts = [re.escape(fold(part.strip())) for part in line.split("…")]
    phrase = r"(?:\W+\w+){0,3}?\W+".join(parts)
    # A word boundary only before the letters of a spaced script.
    return rf"(?<![^\W_]){phrase}" if line.isascii() or "…" in line else phrase

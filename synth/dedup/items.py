"""Evaluation items as sets of n-grams of words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from posttrain.core.files import content_hash
from posttrain.core.likeness import task_tokens
from synth.errors import MalformedRow, SynthError
from synth.rows import prompt_messages, prompt_text, row_name


@dataclass(frozen=True)
class EvaluationItem:
    """Hold one evaluation prompt.

    Attributes:
        set_name: the evaluation set.
        name: the item's id, or "row N".
        tokens: its words, normalised, without system messages.
        grams: its n-grams, each once.
        ngram: words of an n-gram.
    """

    set_name: str
    name: str
    tokens: tuple[str, ...]
    grams: frozenset[str]
    ngram: int

    def num_covered(self, grams: Set[str]) -> int:
        """Count the item's words that stand in one of these n-grams."""
        covered = 0
        end = 0
        for start, gram in enumerate(ngrams(self.tokens, self.ngram)):
            if gram in grams:
                covered += start + self.ngram - max(start, end)
                end = start + self.ngram
        return covered


def read_items(
    evaluation_sets: Mapping[str, Iterable[Mapping[str, Any]]], ngram: int
) -> tuple[list[EvaluationItem], dict[str, dict[str, Any]]]:
    """Read the evaluation sets.

    Returns:
        the items; and for each set its number of items and the content hash of its prompts.

    Raises:
        SynthError: a row has no prompt that can be read.
    """
    items: list[EvaluationItem] = []
    sets: dict[str, dict[str, Any]] = {}
    for set_name, rows in evaluation_sets.items():
        prompts = []
        for position, row in enumerate(rows):
            name = row_name(row, position)
            try:
                tokens = tuple(task_tokens(prompt_text(row)))
                prompts.append([{"role": m["role"], "content": m.get("content")} for m in prompt_messages(row)])
            except MalformedRow as error:
                raise SynthError(f"evaluation set '{set_name}', {name}: {error}; give every item a prompt") from error
            items.append(EvaluationItem(set_name, name, tokens, frozenset(ngrams(tokens, ngram)), ngram))
        sets[set_name] = {"num_items": len(prompts), "content_hash": content_hash(prompts)}
    return items, sets


def ngrams(tokens: Sequence[str], ngram: int) -> list[str]:
    """List the runs of `ngram` words, in order; a shorter text has none."""
    return [" ".join(tokens[start : start + ngram]) for start in range(len(tokens) - ngram + 1)]


def longest_match(token_lists: Iterable[list[str]], grams: set[str], ngram: int) -> str:
    """Give the longest run of words covered by n-grams of `grams`, as the matched text of a flag."""
    best: list[str] = []
    for tokens in token_lists:
        start = end = -1
        for position, gram in enumerate(ngrams(tokens, ngram)):
            if gram not in grams:
                continue
            if position > end:
                start = position
            end = position + ngram
            if end - start > len(best):
                best = tokens[start:end]
    return " ".join(best)

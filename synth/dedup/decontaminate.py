"""Drop rows that overlap with evaluation prompts, and report which row matched which item."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from posttrain.core.files import content_hash
from posttrain.core.likeness import task_tokens
from synth.dedup.items import EvaluationItem, longest_match, ngrams, read_items
from synth.dedup.shingles import BELOW_ONE
from synth.errors import MalformedRow, SynthError
from synth.filters.partition import Dropped, Kept
from synth.rows import Row, all_texts, copies, prompt_text


def decontaminate(
    rows: Iterable[Mapping[str, Any]],
    evaluation_sets: Mapping[str, Iterable[Mapping[str, Any]]],
    threshold: float = 0.5,
    ngram: int = 8,
    boilerplate_rows: int = 3,
    min_informative: int = 3,
    boilerplate: Sequence[str] = (),
) -> tuple[Kept, Dropped, dict[str, Any]]:
    """Drop rows that contain an evaluation prompt or the larger part of one, in any message of prompt or completion.

    A row is flagged when n-grams that it shares with one item cover at least `threshold` of the item's words, n-grams
    that are boilerplate left out on both sides: those in `boilerplate`, and those found under `boilerplate_rows` or
    more different prompts of the set (a shared template or system message). This is the rule of Tülu 3 (2411.15124,
    3.2) but for the boilerplate, without which it flags a third of clean siblings of a template. A row that holds the
    whole item word for word is flagged however frequent its n-grams are, else a leak would hide by being repeated.
    What does not count is said in `posttrain.core.likeness` (case, sentence marks, line breaks).

    Items with fewer than `min_informative` such n-grams cannot be judged by overlap: they are listed as `unjudgeable`
    and compared exactly, with each message and with the whole prompt; items of fewer than three words never flag.

    Args:
        evaluation_sets: rows with `prompt` by the name of their set; system messages are not part of an item.
        threshold: share of an item's words that shared informative n-grams cover, in (0, 1]; words that stand in no
            informative n-gram are not counted.
        ngram: words of an n-gram.
        boilerplate: texts whose n-grams say nothing, for example the template that rendered the rows.

    Returns:
        kept and dropped rows in input order, dropped ones with `drop_reason` `evaluation_overlap`, `evaluation_set`,
        `evaluation_id`, `matched_text` and `matched_share` of the best match; and the report: the settings, each
        evaluation set's size and content hash, the flags (every row and item that matched) and the unjudgeable items.

    Raises:
        SynthError: a setting is out of range, or an evaluation row has no prompt.
    """
    _check(threshold, ngram, boilerplate_rows, min_informative)
    items, sets = read_items(evaluation_sets, ngram)
    all_rows = copies(rows)
    index = _Overlap(items, ngram, threshold, min_informative)
    index.leave_out(gram for text in boilerplate for gram in ngrams(task_tokens(text), ngram))
    index.leave_out(_frequent(all_rows, index.known, ngram, boilerplate_rows))
    index.close()
    kept: Kept = []
    dropped: Dropped = []
    flags: list[Row] = []
    for position, row in enumerate(all_rows):
        try:
            found = index.find(_token_lists(row))
        except MalformedRow as error:
            dropped.append({**row, "drop_reason": f"malformed: {error}"})
            continue
        if not found:
            kept.append(row)
            continue
        name = row.get("prompt_id")
        flags += [{"row": position + 1, "prompt_id": name, "sample_index": row.get("sample_index"), **f} for f in found]
        dropped.append({**row, "drop_reason": "evaluation_overlap", **found[0]})
    report = {
        "settings": {
            "threshold": threshold,
            "ngram": ngram,
            "boilerplate_rows": boilerplate_rows,
            "min_informative": min_informative,
            "boilerplate": content_hash(list(boilerplate)),
        },
        "evaluation_sets": sets,
        "num_rows": len(all_rows),
        "num_dropped": len(dropped),
        "flags": flags,
        "unjudgeable": index.unjudgeable(),
    }
    return kept, dropped, report


class _Overlap:
    """Index the n-grams of the evaluation items, and look rows up in it; memory depends on the items alone."""

    def __init__(self, items: Sequence[EvaluationItem], ngram: int, threshold: float, min_informative: int) -> None:
        self._items = items
        self._ngram = ngram
        self._threshold = threshold
        self._min_informative = min_informative
        self._left_out: set[str] = set()
        self.known: dict[str, list[int]] = defaultdict(list)
        self._exact: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for number, item in enumerate(items):
            for gram in item.grams:
                self.known[gram].append(number)

    def leave_out(self, grams: Iterable[str]) -> None:
        """Call n-grams boilerplate."""
        self._left_out.update(grams)

    def close(self) -> None:
        """Fix what is informative, once all boilerplate is known."""
        self._num_informative = [len(item.grams - self._left_out) for item in self._items]
        self._num_coverable = [item.num_covered(item.grams - self._left_out) for item in self._items]
        for number, item in enumerate(self._items):
            if self._num_informative[number] < self._min_informative and len(item.tokens) >= 3:
                self._exact[item.tokens].append(number)

    def unjudgeable(self) -> list[Row]:
        """List the items that have too few informative n-grams."""
        return [
            {"evaluation_set": item.set_name, "evaluation_id": item.name, "num_informative": count}
            for item, count in zip(self._items, self._num_informative, strict=True)
            if count < self._min_informative
        ]

    def find(self, token_lists: Sequence[list[str]]) -> list[Row]:
        """List the items that a row matches, the best first.

        Args:
            token_lists: the words of each of the row's messages, and of all of them together.
        """
        found = [flag for tokens in token_lists for flag in self._exact_flags(tokens)]
        hits: dict[int, set[str]] = defaultdict(set)
        for tokens in token_lists:
            for gram in ngrams(tokens, self._ngram):
                for number in self.known.get(gram, ()):
                    hits[number].add(gram)
        for number, grams in hits.items():
            share = self._share(number, grams, token_lists)
            if share >= self._threshold:
                found.append(self._flag(number, share, longest_match(token_lists, grams, self._ngram)))
        best = {(flag["evaluation_set"], flag["evaluation_id"]): flag for flag in found}
        return sorted(best.values(), key=lambda f: (-f["matched_share"], f["evaluation_set"], str(f["evaluation_id"])))

    def _share(self, number: int, grams: set[str], token_lists: Sequence[list[str]]) -> float:
        item = self._items[number]
        if len(grams) == len(item.grams) and any(_holds(tokens, item.tokens) for tokens in token_lists):
            return 1.0
        if self._num_informative[number] < self._min_informative:
            return 0.0
        share = item.num_covered(grams - self._left_out) / self._num_coverable[number]
        # All words may be covered without the n-grams across a place where the row says "not".
        return share if item.grams - self._left_out <= grams else min(share, BELOW_ONE)

    def _exact_flags(self, tokens: list[str]) -> list[Row]:
        return [self._flag(number, 1.0, " ".join(tokens)) for number in self._exact.get(tuple(tokens), ())]

    def _flag(self, number: int, share: float, matched: str) -> Row:
        item = self._items[number]
        return {
            "evaluation_set": item.set_name,
            "evaluation_id": item.name,
            "matched_text": matched,
            "matched_share": share,
        }


def _token_lists(row: Mapping[str, Any]) -> list[list[str]]:
    texts = [task_tokens(text) for text in all_texts(row)]
    # A dialogue as a whole too: an item of several turns is in none of its messages alone.
    return [*texts, task_tokens(prompt_text(row))] if len(texts) > 1 else texts


def _frequent(rows: Sequence[Row], known: Mapping[str, Any], ngram: int, limit: int) -> set[str]:
    # Different prompts, not rows: K completions of one prompt, or copies of one row, are one finding.
    seen: set[tuple[str, ...]] = set()
    counts: Counter[str] = Counter()
    for row in rows:
        try:
            token_lists = _token_lists(row)
        except MalformedRow:
            continue
        name = (str(row.get("prompt_id")),) if row.get("prompt_id") is not None else tuple(map(" ".join, token_lists))
        if name in seen:
            continue
        seen.add(name)
        counts.update({gram for tokens in token_lists for gram in ngrams(tokens, ngram) if gram in known})
    return {gram for gram, count in counts.items() if count >= limit}


def _holds(tokens: list[str], wanted: tuple[str, ...]) -> bool:
    return f" {' '.join(wanted)} " in f" {' '.join(tokens)} "


def _check(threshold: float, ngram: int, boilerplate_rows: int, min_informative: int) -> None:
    faults = []
    if not 0.0 < threshold <= 1.0:
        faults.append(f"threshold is {threshold}, expected a number in (0, 1]")
    for name, value in (("ngram", ngram), ("boilerplate_rows", boilerplate_rows), ("min_informative", min_informative)):
        if value < 1:
            faults.append(f"{name} is {value}, expected at least 1")
    if faults:
        raise SynthError("decontamination: " + "; ".join(faults))

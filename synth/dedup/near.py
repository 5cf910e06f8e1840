"""Drop rows that nearly say the same as another one: candidates by MinHash, each decided by the exact similarity."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from datasketch import MinHash, MinHashLSH

from posttrain.core.likeness import task_tokens
from synth.dedup.order import Key, best_first
from synth.dedup.shingles import Measure, Similarity, shingles
from synth.errors import MalformedRow, SynthError
from synth.filters.partition import Dropped, Kept
from synth.rows import Row, copies, prompt_text, system_text

_NUM_PERMUTATIONS = 128
# Pairs that lie exactly at the threshold are missed as candidates at most this often; more similar ones far less.
_MAX_MISS = 2e-3
# A pair of TF-IDF cosine t has in practice a character-5-gram Jaccard index of more than this share of t.
_CHARACTERS_PER_COSINE = 0.65
# Rounding may put two equal vectors at a cosine of 0.9999999999.
_ROUNDING = 1e-9


def near_duplicates(
    rows: Iterable[Mapping[str, Any]],
    threshold: float | None,
    against: Iterable[Mapping[str, Any]] = (),
    measure: Measure = "char5",
    order_by: Key | None = None,
    text: Callable[[Mapping[str, Any]], str] = prompt_text,
) -> tuple[Kept, Dropped]:
    """Keep rows of which no two are as similar as `threshold`.

    Rows are taken from the best to the worst, each compared with those kept before: chains are not merged, so of
    A ~ B ~ C with A unlike C both A and C stay (one that merges chains joined 743,779 templated documents into one).
    Only prompts with the same system message are compared, so a shared system message makes nobody alike.

    Short prompts of one template that differ in one word are different tasks, and differ little: "reverse the list :
    apple moon dog" and "… cat" have 0.8 in common by `char5`. For such sets take `tfidf`, under which words that all
    siblings share weigh little, or a threshold near 1, or None (exact duplicates are another function's business).

    Args:
        threshold: similarity in (0, 1] from which two rows are duplicates; None drops nothing.
        against: protected rows: what resembles them is dropped, they never are. Adding rows here never brings a row
            back that was dropped for resembling a protected one.
        measure: `char5`, Jaccard index of character 5-grams: 0.7 catches one changed word in twenty.
            `tfidf`, cosine over words and word pairs: 0.8 catches one changed word in ten and spares
            siblings of a template.
        order_by: of duplicates the row with the largest value stays; the first row of the input when absent.
        text: gives the text that is compared.

    Returns:
        kept and dropped rows in input order. Dropped rows carry `drop_reason` (`near_duplicate`, or
        `near_duplicate_of_protected`), `duplicate_of` (the id of a row that stays) and `similarity`.

    Raises:
        SynthError: `threshold` is not in (0, 1].
    """
    all_rows = copies(rows)
    if threshold is None:
        return all_rows, []
    if not 0.0 < threshold <= 1.0:
        raise SynthError(f"near-duplicate threshold is {threshold}; give a number in (0, 1], or none to keep all rows")
    protected = copies(against)
    index = _Index([*all_rows, *protected], len(all_rows), threshold, measure, text)
    for position in range(len(all_rows), len(all_rows) + len(protected)):
        index.keep(position)
    drops: dict[int, Row] = {}
    for position in best_first(all_rows, order_by):
        found = index.find(position)
        if found is None:
            index.keep(position)
        else:
            drops[position] = found
    kept = [row for position, row in enumerate(all_rows) if position not in drops]
    return kept, [{**all_rows[position], **drops[position]} for position in sorted(drops)]


class _Index:
    """Hold the kept rows, and find what a new row duplicates.

    Args:
        rows: all rows, the protected ones last.
        num_rows: how many rows are not protected.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        num_rows: int,
        threshold: float,
        measure: Measure,
        text: Callable[[Mapping[str, Any]], str],
    ) -> None:
        self._rows = rows
        self._num_rows = num_rows
        self._threshold = threshold
        self._faults: dict[int, str] = {}
        self._systems: list[tuple[str, ...]] = []
        texts = [self._read(position, row, text) for position, row in enumerate(rows)]
        self._similarity = Similarity(texts, measure, num_rows)
        self._sketches = _sketches(texts)
        floor = threshold if measure == "char5" else _CHARACTERS_PER_COSINE * threshold
        self._lsh = MinHashLSH(num_perm=_NUM_PERMUTATIONS, params=bands_and_rows(floor))

    def _read(self, position: int, row: Row, text: Callable[[Mapping[str, Any]], str]) -> str:
        try:
            self._systems.append(tuple(task_tokens(system_text(row))))
            return text(row)
        except MalformedRow as error:
            del self._systems[position:]
            self._systems.append(())
            self._faults[position] = str(error)
            return ""

    def keep(self, position: int) -> None:
        """Compare later rows with this one; a row without words resembles nothing."""
        if not self._sketches[position].is_empty():
            self._lsh.insert(position, self._sketches[position], check_duplication=False)

    def find(self, position: int) -> Row | None:
        """Give the columns of the drop, or None where the row is no duplicate."""
        if position in self._faults:
            return {"drop_reason": f"malformed: {self._faults[position]}"}
        if self._sketches[position].is_empty():
            return None
        system = self._systems[position]
        candidates = sorted(self._lsh.query(self._sketches[position]))
        candidates = [other for other in candidates if self._systems[other] == system]
        if not candidates:
            return None
        similarities = self._similarity.between(position, candidates)
        hits = [
            # A protected row is named before one of the set, so that this verdict does not depend on the set's order.
            (other >= self._num_rows, float(similarity), -other)
            for other, similarity in zip(candidates, similarities, strict=True)
            if similarity >= self._threshold - _ROUNDING
        ]
        if not hits:
            return None
        is_protected, similarity, negative = max(hits)
        reason = "near_duplicate_of_protected" if is_protected else "near_duplicate"
        owner = self._rows[-negative].get("prompt_id")
        return {"drop_reason": reason, "duplicate_of": owner, "similarity": min(1.0, similarity)}


def bands_and_rows(similarity: float) -> tuple[int, int]:
    """Choose how many bands of how many rows split the 128 permutations, for pairs of at least this Jaccard index.

    The largest number of rows that misses a pair at `similarity`, (1 - s^rows)^bands, at most twice in a thousand:
    more rows give fewer false candidates.
    """
    best = 1
    for num_rows in range(1, _NUM_PERMUTATIONS // 2 + 1):
        if (1.0 - similarity**num_rows) ** (_NUM_PERMUTATIONS // num_rows) <= _MAX_MISS:
            best = num_rows
    return _NUM_PERMUTATIONS // best, best


def _sketches(texts: Sequence[str]) -> list[MinHash]:
    # Shingles are hashed already; the sketch takes their lower 32 bits as they are.
    hashed = ((shingles(text) & 0xFFFFFFFF).tolist() for text in texts)
    return MinHash.bulk(hashed, num_perm=_NUM_PERMUTATIONS, seed=1, hashfunc=int, scheme="affine32")

"""Texts as sets of character 5-grams or as TF-IDF vectors, and exact similarities between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from posttrain.core.files import content_hash
from posttrain.core.likeness import task_form, task_tokens

Measure = Literal["char5", "tfidf"]

_SHINGLE_CHARACTERS = 5
BELOW_ONE = 1.0 - 1e-6
"""The most that two different texts have in common: sets of 5-grams do not count how often (1000000, 10000000)."""
# Odd multipliers of a polynomial hash modulo 2^64, from the digits of the golden ratio; stable on every machine.
_MULTIPLIERS = np.array(
    [pow(0x9E3779B97F4A7C15, power, 1 << 64) for power in range(1, _SHINGLE_CHARACTERS + 1)], dtype=np.uint64
)


def shingles(text: str) -> NDArray[np.uint64]:
    """Hash a text's character 5-grams to 64 bits, sorted, each once; a shorter text is one shingle, an empty one none.

    Words and signs are separated by one space; what does not count is said in `posttrain.core.likeness`.
    """
    joined = task_form(text)
    if not joined:
        return np.empty(0, dtype=np.uint64)
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    if len(codes) < _SHINGLE_CHARACTERS:
        codes = np.pad(codes, (0, _SHINGLE_CHARACTERS - len(codes)))
    windows = np.lib.stride_tricks.sliding_window_view(codes + np.uint64(1), _SHINGLE_CHARACTERS)
    return np.unique(_mix((windows * _MULTIPLIERS).sum(axis=1, dtype=np.uint64)))


class Similarity:
    """Give the exact similarity of any two of a list of texts.

    `char5` is the Jaccard index of the sets of character 5-grams. `tfidf` is the cosine of vectors of words and word
    pairs weighted by (1 + log count) · (log((1 + n) / (1 + df)) + 1), where n and df count only the first
    `num_fitted` texts, so that further texts do not change the similarity of a pair.

    Args:
        texts: the texts compared.
        measure: which similarity.
        num_fitted: how many of the texts count for document frequencies; the others are only compared.
    """

    def __init__(self, texts: Sequence[str], measure: Measure, num_fitted: int) -> None:
        self._measure = measure
        self.matrix = _shingle_matrix(texts) if measure == "char5" else _tfidf_matrix(texts, num_fitted)
        self._sizes = np.diff(self.matrix.indptr)
        self._forms = np.array([int(content_hash(task_form(text)), 16) for text in texts], dtype=np.uint64)

    def between(self, index: int, others: Sequence[int]) -> NDArray[np.float64]:
        """Give the similarity of one text to several others, each in [0, 1]; 0 where a text has no content.

        It is below 1 for all but equal texts (`posttrain.core.likeness`), whatever the measure leaves out.
        """
        most = np.where(self._forms[others] == self._forms[index], 1.0, BELOW_ONE)
        return np.minimum(self._measured(index, others), most)

    def _measured(self, index: int, others: Sequence[int]) -> NDArray[np.float64]:
        dots = (self.matrix[others] @ self.matrix[[index]].T).toarray().ravel()
        if self._measure == "tfidf":
            return dots
        unions = self._sizes[others] + self._sizes[index] - dots
        return np.divide(dots, unions, out=np.zeros(len(dots)), where=unions > 0)


def _shingle_matrix(texts: Sequence[str]) -> csr_matrix:
    sets = [shingles(text) for text in texts]
    columns = np.concatenate(sets) if sets else np.empty(0, dtype=np.uint64)
    unique, column = np.unique(columns, return_inverse=True)
    starts = np.concatenate([[0], np.cumsum([len(found) for found in sets])]).astype(np.int64)
    return csr_matrix((np.ones(len(column)), column, starts), shape=(len(texts), max(1, len(unique))))


def _tfidf_matrix(texts: Sequence[str], num_fitted: int) -> csr_matrix:
    vocabulary: dict[str, int] = {}
    rows: list[int] = []
    columns: list[int] = []
    for row, text in enumerate(texts):
        tokens = task_tokens(text)
        for term in [*tokens, *(f"{a} {b}" for a, b in zip(tokens, tokens[1:], strict=False))]:
            rows.append(row)
            columns.append(vocabulary.setdefault(term, len(vocabulary)))
    counts = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(texts), max(1, len(vocabulary))))
    counts.sum_duplicates()
    frequency = np.bincount(counts[:num_fitted].indices, minlength=counts.shape[1])
    weights = np.log((1 + num_fitted) / (1 + frequency)) + 1
    counts.data = (1 + np.log(counts.data)) * weights[counts.indices]
    norms = np.sqrt(np.asarray(counts.multiply(counts).sum(axis=1)).ravel())
    counts.data /= np.repeat(np.where(norms > 0, norms, 1.0), np.diff(counts.indptr))
    return counts


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # The finalizer of SplitMix64: nearby sums become unrelated hashes.
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))

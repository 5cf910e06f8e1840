"""How a round's scores are spread: all samples, those kept for SFT, and the rejected side of pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

NUM_BINS = 30
KINDS = ("count", "kept", "rejected")


def histograms(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, list[dict[str, float]]]:
    """Count scores in bins, the same for all rounds.

    Args:
        scores: of each round, lists of scores: `count` of all samples, `kept` of the SFT rows, `rejected` of pairs.

    Returns:
        By round, rows of `low`, `high`, and a count of each kind. The bins span all but the outermost thousandth of
        the scores on either side, which the first and last bin hold too.
    """
    everything = np.array([score for kinds in scores.values() for score in kinds["count"]], dtype=float)
    if not everything.size:
        return {}
    edges = bin_edges(everything)
    return {name: _rows(edges, kinds) for name, kinds in scores.items() if kinds["count"]}


def bin_edges(scores: np.ndarray) -> np.ndarray:
    """Return the edges of the bins; a single value gets bins of width one around it."""
    low, high = np.quantile(scores, [0.001, 0.999])
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, NUM_BINS + 1)


def _rows(edges: np.ndarray, kinds: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    counts = {kind: np.histogram(np.clip(kinds.get(kind, ()), edges[0], edges[-1]), edges)[0] for kind in KINDS}
    return [
        {
            "low": float(edges[place]),
            "high": float(edges[place + 1]),
            **{kind: int(counts[kind][place]) for kind in KINDS},
        }
        for place in range(len(edges) - 1)
    ]

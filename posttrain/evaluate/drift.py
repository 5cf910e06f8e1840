"""Drift: what a win rate does not show of a policy's answers, each measure with its threshold.

A reward model, or any judge, is gamed in known ways: answers move far from the base (2210.10760), grow long
(2310.03716), all say the same (2310.06452), refuse, change language, or never end. An alarm is no verdict: it says that
somebody should look.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from posttrain.config import DriftConfig
from posttrain.evaluate.pairing import completion_text, mean_length
from synth.filters.language import main_language
from synth.filters.refusal import refusal_verdict
from synth.filters.script import main_script
from synth.words import normalized_words

Row = dict[str, Any]


def drift_measures(policy: Sequence[Row], base: Sequence[Row], kl: float | None, limits: DriftConfig) -> list[Row]:
    """Measure how far a policy's answers are from the base's, and raise an alarm past a threshold.

    Args:
        policy: COMPLETION rows of the policy on the held-out prompts.
        base: those of the base on the same prompts.
        kl: KL of the policy from the base in nats per token; None where it was not measured.
        limits: thresholds; a measure without one is left out.

    Returns:
        Rows of `measure`, `value`, `threshold`, `alarm`, `reason` and `base`, the base's own value where it has one.
    """
    ours, theirs = ([completion_text(row) for row in rows] for rows in (policy, base))
    lengths, distinct = [mean_length(list(rows)) or 0.0 for rows in (policy, base)], distinct_share(theirs)
    length = lengths[0] / max(lengths[1], 1.0)
    floor = None if limits.min_distinct_share is None else limits.min_distinct_share * distinct
    shift, tongues = language_shift(ours, theirs, limits.languages), "languages" if limits.languages else "scripts"
    rows = [
        _row("kl_from_base", kl, None, limits.max_kl_from_base, "nats per token from the base"),
        _row("mean_length_ratio", length, limits.min_mean_length_ratio, limits.max_mean_length_ratio, "of the base's"),
        _row("distinct_share", distinct_share(ours), floor, None, "of word pairs are distinct") | {"base": distinct},
        _row("refusal_share", refusal_share(ours), None, limits.max_refusal_share, "of the answers refuse")
        | {"base": refusal_share(theirs)},
        _row("language_shift", shift, None, limits.max_language_shift, f"in other {tongues}"),
        _row("truncated_share", truncated_share(policy), None, limits.max_truncated_share, "of the answers were cut")
        | {"base": truncated_share(base)},
    ]
    return [row for row in rows if row["threshold"] is not None and row["value"] is not None]


def _row(measure: str, value: float | None, low: float | None, high: float | None, unit: str) -> Row:
    """Compare a value with its thresholds; of two, the one that is crossed or nearer is told."""
    if value is None or (low is None and high is None):
        return {"measure": measure, "value": value, "threshold": None}
    under = high is None or (low is not None and (value < low or value * value < low * high))
    threshold, word = (low, "below") if under else (high, "above")
    assert threshold is not None
    alarm = value < threshold if under else value > threshold
    reason = f"{value:.3g} {unit}, {'' if alarm else 'not '}{word} the threshold of {threshold:.3g}"
    return {"measure": measure, "value": value, "threshold": threshold, "alarm": alarm, "reason": reason}


def distinct_share(texts: Sequence[str]) -> float:
    """Give the distinct word bigrams of all texts as a share of all their bigrams (Li et al. 2016, distinct-2).

    Texts of one word count as a bigram with their end, so that answers of a word have one too. 1.0 where no text has a
    word.
    """
    bigrams: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        tokens = [*normalized_words(text), ""]
        bigrams.update(zip(tokens, tokens[1:], strict=False))
    return len(bigrams) / bigrams.total() if bigrams else 1.0


def refusal_share(texts: Sequence[str]) -> float:
    """Give the share of texts that refuse, by the phrase lists of eight languages in synth/filters/refusals.txt."""
    return sum(refusal_verdict(text) == "refusal" for text in texts) / len(texts)


def language_shift(texts: Sequence[str], others: Sequence[str], languages: Sequence[str] = ()) -> float:
    """Give the total variation distance between the languages of two sets of texts, in [0, 1].

    0.2 means that a fifth of the texts is in another language. Scripts are compared too, which shows languages that are
    not named, and the larger distance is given.

    Args:
        languages: those to tell apart, as `synth.filters.language.main_language` takes them; scripts alone where none.
    """
    scripts = _variation(*([main_script(text) for text in side] for side in (texts, others)))
    if not languages:
        return scripts
    return max(scripts, _variation(*([main_language(text, languages) for text in side] for side in (texts, others))))


def _variation(labels: Iterable[str | None], others: Iterable[str | None]) -> float:
    """Give the total variation distance of two sets of labels without those left open; 0 where a side has none."""
    counts = [Counter(label for label in side if label is not None) for side in (labels, others)]
    if not all(counts):
        return 0.0
    shares = [{label: count / side.total() for label, count in side.items()} for side in counts]
    return sum(abs(shares[0].get(label, 0.0) - shares[1].get(label, 0.0)) for label in {*shares[0], *shares[1]}) / 2


def truncated_share(rows: Sequence[Mapping[str, Any]]) -> float:
    """Give the share of answers that ended at the token limit."""
    return sum(row.get("finish_reason") == "length" for row in rows) / len(rows)

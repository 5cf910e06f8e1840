"""Win rates, worked out by hand."""

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student_t
from statsmodels.stats.proportion import proportion_confint

from posttrain.core.errors import DataError
from posttrain.evaluate.intervals import mean_interval, unanimous_interval
from posttrain.evaluate.pairing import mean_length, pair_rows, pair_scores
from posttrain.evaluate.win_rate import win_rate


def verdict(prompt_id, preference, length_a=10, length_b=10):
    return {"prompt_id": prompt_id, "preference": preference, "length_a": length_a, "length_b": length_b}


def row(prompt_id, score, text="x", index=0):
    completion = [{"role": "assistant", "content": text}]
    return {"prompt_id": prompt_id, "sample_index": index, "completion": completion, "score": score}


def mixed_verdicts():
    preferences = [1, 1, 0, 0.5, 0.8, 1, 0, 1, 0.3, 1, 1, 0.5]
    return [verdict(f"p{i}", p, 5 + i, 20 - i) for i, p in enumerate(preferences)]


def test_counts_and_rate():
    preferences = {"a": 1, "b": 0.5, "c": 0, "d": 1, "e": None}
    result = win_rate([verdict(key, preference) for key, preference in preferences.items()])
    assert result["win_rate"] == pytest.approx(2.5 / 4)
    assert (result["wins"], result["ties"], result["losses"], result["unreadable"]) == (2, 1, 1, 1)
    assert result["num_pairs"] == 4
    assert 0 <= result["low"] <= result["win_rate"] <= result["high"] <= 1
    assert (result["mean_length_a"], result["mean_length_b"]) == (10, 10)


def test_keys_are_the_interface():
    result = win_rate(mixed_verdicts())
    named = ["win_rate", "low", "high", "num_pairs", "wins", "ties", "losses", "unreadable", "length_controlled"]
    assert [key for key in named if key not in result] == []
    assert sorted(result["length_controlled"]) == ["high", "low", "win_rate"]


def test_swapping_mirrors_rate_and_interval():
    rows = mixed_verdicts()
    swapped = [verdict(r["prompt_id"], 1 - r["preference"], r["length_b"], r["length_a"]) for r in rows]
    ours, theirs = win_rate(rows), win_rate(swapped)
    assert theirs["win_rate"] == pytest.approx(1 - ours["win_rate"], abs=1e-12)
    assert theirs["low"] == pytest.approx(1 - ours["high"], abs=1e-12)
    assert theirs["high"] == pytest.approx(1 - ours["low"], abs=1e-12)
    assert (theirs["wins"], theirs["losses"]) == (ours["losses"], ours["wins"])
    controlled, mirrored = ours["length_controlled"], theirs["length_controlled"]
    assert mirrored["win_rate"] == pytest.approx(1 - controlled["win_rate"], abs=1e-9)
    assert mirrored["low"] == pytest.approx(1 - controlled["high"], abs=1e-9)
    assert mirrored["high"] == pytest.approx(1 - controlled["low"], abs=1e-9)


def test_order_of_rows_changes_nothing():
    assert win_rate(mixed_verdicts()) == win_rate(mixed_verdicts()[::-1])


def test_verdicts_of_one_prompt_count_once():
    often = [verdict("a", 1) for _ in range(9)] + [verdict("b", 0)]
    result = win_rate(often)
    assert (result["win_rate"], result["num_pairs"], result["wins"], result["losses"]) == (0.5, 2, 1, 1)


def test_unanimous_wins_have_wilsons_interval():
    # Wilson for 20 of 20: n / (n + z²) = 20 / (20 + 3.8415) = 0.8389
    result = win_rate([verdict(f"p{i}", 1) for i in range(20)])
    assert (result["win_rate"], result["high"]) == (1.0, 1.0)
    assert result["low"] == pytest.approx(0.8389, abs=1e-4)


def test_all_ties_have_an_interval_around_one_half():
    low, high = unanimous_interval(0.5, 100)
    # Wilson's bound for 0 of 100 is 3.8415 / 103.8415 = 0.03699; half of it either way
    assert (low, high) == pytest.approx((0.5 - 0.018497, 0.5 + 0.018497), abs=1e-5)


@pytest.mark.parametrize("preferences", [[1] * 17 + [0] * 3, [0.5] * 6 + [1] * 5 + [0], [0.25, 0.75, 1, 1, 0.5]])
def test_the_interval_is_wilsons_with_an_effective_number_of_prompts(preferences):
    values = np.array(preferences, dtype=float)
    mean, variance = values.mean(), values.var(ddof=1)
    effective = mean * (1 - mean) / (variance / values.size)
    # for wins and losses alone that is n - 1; ties make it larger
    assert effective > values.size - 1 - 1e-9
    # the level at which a normal quantile is Student's 97.5 % one
    level = 2 * norm.sf(student_t.ppf(0.975, values.size - 1))
    expected = proportion_confint(mean * effective, effective, alpha=level, method="wilson")
    assert mean_interval(values) == pytest.approx(expected, abs=1e-12)


def test_unusable_verdicts_are_refused():
    with pytest.raises(DataError, match="none of the 1 verdicts is readable"):
        win_rate([verdict("a", None)])
    with pytest.raises(DataError, match="(?s)2 faults.*row 1.*1.5.*row 2.*True"):
        win_rate([verdict("a", 1.5), verdict("b", True)])
    with pytest.raises(DataError, match="nan"):
        win_rate([verdict("a", float("nan"))])


def test_unknown_lengths_leave_length_control_empty():
    result = win_rate([{"prompt_id": "a", "preference": 1}, {"prompt_id": "b", "preference": 0}])
    assert result["length_controlled"] == {"win_rate": None, "low": None, "high": None}
    assert result["mean_length_a"] is None


def test_scores_pair_every_sample_with_every_sample():
    # prompt p: A has 3 and 1, B has 2 and 1: wins 3>2, 3>1; 1<2 loses; 1=1 ties -> 2.5 of 4
    rows_a = [row("p", 3.0, "abc", 0), row("p", 1.0, "a", 1)]
    rows_b = [row("p", 2.0, "ab", 0), row("p", 1.0, "abcd", 1)]
    verdict = {"prompt_id": "p", "preference": 0.625, "length_a": 2.0, "length_b": 3.0}
    assert pair_scores(rows_a, rows_b) == [{**verdict, "left_out_a": 0, "left_out_b": 0}]
    assert pair_scores(rows_a, rows_b, tie_margin=1.0)[0]["preference"] == pytest.approx((0.5 + 1 + 0.5 + 0.5) / 4)


def test_a_row_without_score_is_unreadable():
    verdicts = pair_scores([row("p", None), row("q", 1.0)], [row("p", 1.0), row("q", 0.0)])
    assert [v["preference"] for v in verdicts] == [None, 1.0]


def test_join_is_by_id_and_reports_what_is_missing():
    pairing = pair_rows([row("b", 1), row("a", 2), row("only_a", 3)], [row("a", 4), row("only_b", 5), row("b", 6)])
    assert [(p, a[0]["score"], b[0]["score"]) for p, a, b in pairing.prompts] == [("a", 2, 4), ("b", 1, 6)]
    assert (pairing.missing_in_a, pairing.missing_in_b) == (["only_b"], ["only_a"])


def test_joins_that_mean_nothing_are_refused():
    with pytest.raises(DataError, match="no prompt_id is in both"):
        pair_rows([row("a", 1)], [row("b", 1)])
    with pytest.raises(DataError, match="sample 0 of prompt_id 'a' is there twice"):
        pair_rows([row("a", 1), row("a", 2)], [row("a", 1)])
    one, other = row("a", 1) | {"prompt": [{"role": "user", "content": "x"}]}, row("a", 1) | {"prompt": "y"}
    with pytest.raises(DataError, match="another prompt"):
        pair_rows([one], [other])
    assert pair_rows([one], [other | {"prompt": "x"}]).prompts  # a text is one user message
    with pytest.raises(DataError, match="has no completion"):
        mean_length([{"prompt_id": "a", "completion": [{"role": "assistant", "content": 5}]}])
    with pytest.raises(DataError, match="not a finite number"):
        pair_scores([row("a", float("nan"))], [row("a", 1.0)])

"""Drift of a policy from the base: values worked out by hand, and alarms at their thresholds."""

from __future__ import annotations

import pytest

from posttrain.config import DriftConfig
from posttrain.evaluate.drift import distinct_share, drift_measures, language_shift, refusal_share


def answers(*texts: str, cut: int = 0):
    return [
        {"prompt_id": f"p{n}", "completion": text, "finish_reason": "length" if n < cut else "stop"}
        for n, text in enumerate(texts)
    ]


def measured(policy, base, kl=0.1, **limits):
    return {row["measure"]: row for row in drift_measures(policy, base, kl, DriftConfig(**limits))}


def test_answers_like_the_bases_raise_no_alarm():
    base = answers("the cat sat", "a dog ran", "two birds sang")
    found = measured(base, base)
    names = "kl_from_base mean_length_ratio distinct_share refusal_share language_shift truncated_share"
    assert list(found) == names.split()
    assert not any(row["alarm"] for row in found.values())
    assert all(row["reason"] for row in found.values())


@pytest.mark.parametrize(
    ("measure", "policy", "value"),
    [
        ("mean_length_ratio", answers("ten tokens " * 6), 66 / 11),  # 66 characters against 11
        ("mean_length_ratio", answers("a"), 1 / 11),
        ("refusal_share", answers("I'm sorry, but I can't help with that.", "fine"), 0.5),
        ("language_shift", answers("да конечно", "yes of course"), 0.5),
        ("truncated_share", answers("one two", "three four", "five six", "seven eight", cut=1), 0.25),
        # "no" and its end in four answers: one distinct pair of four.
        ("distinct_share", answers("no", "no", "no", "no"), 0.25),
    ],
)
def test_each_measure_raises_its_alarm(measure, policy, value):
    row = measured(policy, answers("ten letters"))[measure]
    assert row["value"] == pytest.approx(value) and row["alarm"]


def test_the_kl_alarm_has_the_threshold_of_the_recipe():
    base = answers("the cat sat")
    assert not measured(base, base, kl=1.5, max_kl_from_base=1.5)["kl_from_base"]["alarm"]  # exceeds, not reaches
    assert measured(base, base, kl=1.6, max_kl_from_base=1.5)["kl_from_base"]["alarm"]


def test_a_measure_without_a_threshold_is_left_out():
    base = answers("the cat sat")
    off = ("max_kl_from_base", "min_distinct_share", "max_mean_length_ratio", "min_mean_length_ratio")
    assert list(measured(base, base, **dict.fromkeys(off))) == ["refusal_share", "language_shift", "truncated_share"]
    assert "kl_from_base" not in measured(base, base, kl=None)


def test_of_two_thresholds_the_nearer_one_is_told():
    base = answers("ten letters")
    longer, shorter = (measured(answers(text), base)["mean_length_ratio"] for text in ("fifteen letters", "letters"))
    assert (longer["threshold"], shorter["threshold"]) == (2.0, 0.5)  # 15/11 and 7/11
    assert not longer["alarm"] and not shorter["alarm"]


def test_distinct_bigrams_are_counted_over_all_answers():
    # a b, b end; a b, b end; a c, c end: four distinct of six.
    assert distinct_share(["a b", "a b", "a c"]) == pytest.approx(4 / 6)
    assert distinct_share([""]) == 1.0


def test_an_apology_inside_an_answer_is_no_refusal():
    assert refusal_share(["Sorry for the delay: the answer is 4.", "I cannot help with that."]) == 0.5


def test_scripts_are_compared_as_shares_of_answers():
    assert language_shift(["yes", "nope", "нет да"], ["yes", "nope", "maybe"]) == pytest.approx(1 / 3)
    assert language_shift(["12 34"], ["yes"]) == 0.0  # numbers are in no script


def test_languages_of_one_script_are_told_apart_where_the_recipe_names_them():
    base = answers("the answer is a red horse", "la réponse est un cheval rouge", "die Antwort ist ein rotes Pferd")
    slipped = answers("the answer is a red horse", "the answer is a red house", "die Antwort ist ein rotes Haus")
    # French is 1/3 of the base's and 0 of the policy's, English 1/3 and 2/3: half of 1/3 + 1/3.
    row = measured(slipped, base, languages=["en", "de", "fr"])["language_shift"]
    assert row["value"] == pytest.approx(1 / 3) and row["alarm"]
    assert row["reason"] == "0.333 in other languages, above the threshold of 0.1"
    assert measured(slipped, base)["language_shift"]["value"] == 0.0  # all of it is Latin
    assert measured(base, base, languages=["en", "de", "fr"])["language_shift"]["value"] == 0.0


def test_a_language_that_is_not_named_shows_by_its_script():
    texts, others = ["ответ красная лошадь", "the answer is a horse"], ["the answer is a house", "it is a horse"]
    assert language_shift(texts, others, ["en", "de"]) == pytest.approx(0.5)


def test_answers_whose_language_is_open_count_on_no_side():
    numbers = ["8 , 17 .", "x = 1; y = x", "`print(1)`", ""]
    english, german = "the answer is a red house", "die Antwort ist ein rotes Haus"
    # Of those that have one, half are German on both sides.
    assert language_shift([english, german, *numbers], [english, german], ["en", "de"]) == 0.0

"""Selection: rules, thresholds, and what may never be chosen. Scores and pairs are worked out by hand."""

import json
import random

import pytest

from posttrain.core.errors import DataError, PosttrainError
from reward.errors import RewardError
from reward.pair_rules import RULES
from reward.select import select, select_file


def row(prompt, index, score, text=None, **columns):
    return {
        "prompt_id": prompt,
        "sample_index": index,
        "prompt": [{"role": "user", "content": f"question {prompt}"}],
        "completion": [{"role": "assistant", "content": f"answer {index}" if text is None else text}],
        "finish_reason": "stop",
        "score": score,
        **columns,
    }


def sides(selection):
    return [(pair["chosen_sample_index"], pair["rejected_sample_index"]) for pair in selection.pairs]


def test_best_of_k_takes_the_best_for_sft_and_the_best_and_the_worst_as_a_pair():
    shared = {"source": "seed", "round": 2, "model": "m", "family": "sums"}
    rows = [row("p", i, score, num_tokens=5 + i, **shared) for i, score in enumerate([0.2, 0.9, -0.4, 0.5])]
    selection = select(rows)
    assert selection.sft == [rows[1]]
    (pair,) = selection.pairs
    assert pair["prompt"] == rows[0]["prompt"]
    assert pair["chosen"] == rows[1]["completion"]
    assert pair["rejected"] == rows[2]["completion"]
    assert pair["margin"] == pytest.approx(1.3)
    assert (pair["chosen_score"], pair["rejected_score"]) == (0.9, -0.4)
    assert (pair["chosen_sample_index"], pair["rejected_sample_index"]) == (1, 2)
    assert pair["prompt_id"] == "p" and {key: pair[key] for key in shared} == shared
    assert (pair["chosen_num_tokens"], pair["rejected_num_tokens"]) == (6, 7)
    assert "completion" not in pair and "score" not in pair
    assert {dropped["sample_index"] for dropped in selection.dropped} == {0, 3}
    assert selection.summary["kept"] == 2 and selection.summary["drop_reasons"] == {"not_selected": 2}


def test_the_result_does_not_depend_on_the_order_of_rows():
    rows = [row(f"p{p}", i, (i * 7 + p) % 5) for p in range(6) for i in range(8)]
    shuffled = rows[:]
    random.Random(1).shuffle(shuffled)
    for rule in RULES:
        first, second = select(rows, rule=rule, seed=3, num_pairs=2), select(shuffled, rule=rule, seed=3, num_pairs=2)
        by_id = {pair["prompt_id"] + str(pair["chosen_sample_index"]) + str(pair["rejected_sample_index"])
                 for pair in first.pairs}  # fmt: skip
        assert by_id == {pair["prompt_id"] + str(pair["chosen_sample_index"]) + str(pair["rejected_sample_index"])
                         for pair in second.pairs}  # fmt: skip
        assert {r["sample_index"] for r in first.sft} == {r["sample_index"] for r in second.sft}


def test_a_margin_of_half_keeps_a_gap_of_half_and_drops_a_smaller_one():
    rows = [row("wide", 0, 1.0), row("wide", 1, 0.5), row("narrow", 0, 1.0), row("narrow", 1, 0.75)]
    selection = select(rows, margin=0.5)
    assert [pair["prompt_id"] for pair in selection.pairs] == ["wide"]
    assert selection.summary["prompts_without_pair"] == {"below_margin": 1}
    assert len(selection.sft) == 2  # SFT needs no gap


def test_equal_scores_make_no_pair_and_the_lowest_index_wins():
    selection = select([row("p", 1, 0.5), row("p", 0, 0.5), row("p", 2, 0.5)])
    assert selection.pairs == []
    assert selection.sft[0]["sample_index"] == 0
    assert selection.summary["ties_broken"] == 1
    assert selection.summary["prompts_without_pair"] == {"tie": 1}


def test_equal_texts_are_never_paired_whatever_their_scores():
    twice = [row("p", 0, 1.0, "Paris  is it."), row("p", 1, 0.0, " Paris\nis it."), row("p", 2, 0.3, "Rome")]
    assert sides(select(twice)) == [(0, 2)]
    alone = select(twice[:2])
    assert alone.pairs == [] and alone.summary["prompts_without_pair"] == {"same_text": 1}
    # Case may be the task ("write in capitals"), so it is a difference.
    assert len(select([row("p", 0, 1.0, "PARIS"), row("p", 1, 0.0, "paris")]).pairs) == 1


def test_a_truncated_answer_is_never_chosen_nor_an_sft_row():
    rows = [
        row("p", 0, 9.0, finish_reason="length"),
        row("p", 1, 1.0),
        row("p", 2, 0.5),
        row("q", 0, 1.0, finish_reason="length"),
    ]
    selection = select(rows)
    assert [r["sample_index"] for r in selection.sft] == [1] and sides(selection) == [(1, 2)]
    assert selection.summary["drop_reasons"] == {"truncated": 2}
    assert selection.summary["prompts_without_pair"] == {"no_usable_completion": 1}


def test_a_truncated_answer_may_be_rejected_where_asked():
    rows = [row("p", 0, 9.0, finish_reason="length"), row("p", 1, 1.0), row("p", 2, -1.0, finish_reason="length")]
    selection = select(rows, truncated="rejected")
    assert sides(selection) == [(1, 2)] and [r["sample_index"] for r in selection.sft] == [1]


def test_an_empty_answer_is_neither_chosen_nor_rejected():
    selection = select([row("p", 0, 5.0, " \n"), row("p", 1, 1.0), row("p", 2, 0.0), row("p", 3, -5.0, "")])
    assert sides(selection) == [(1, 2)] and [r["sample_index"] for r in selection.sft] == [1]
    assert selection.summary["drop_reasons"] == {"empty": 2}


def test_scores_that_are_no_numbers_are_dropped_with_a_reason():
    rows = [row("p", 0, float("nan")), row("p", 1, None), row("p", 2, float("inf")), row("p", 3, 0.1), row("p", 4, 0.2)]
    selection = select(rows)
    assert sides(selection) == [(4, 3)]
    assert selection.summary["drop_reasons"] == {"bad_score": 3}


def test_an_answer_below_min_score_is_not_learned_from():
    rows = [row("p", 0, 0.4), row("p", 1, 0.1), row("q", 0, 0.9), row("q", 1, 0.1)]
    selection = select(rows, min_score=0.5)
    assert [r["prompt_id"] for r in selection.sft] == ["q"] and [p["prompt_id"] for p in selection.pairs] == ["q"]
    assert selection.summary["prompts_without_pair"] == {"none_may_be_chosen": 1}
    assert selection.summary["drop_reasons"] == {"below_min_score": 2}


def test_a_length_penalty_is_taken_per_character():
    rows = [row("p", 0, 1.0, "x" * 100), row("p", 1, 0.9, "y" * 10), row("p", 2, 0.0, "z" * 10)]
    assert select(rows).sft[0]["sample_index"] == 0
    penalised = select(rows, length_penalty=0.01)  # 1.0 - 1.0 = 0.0; 0.9 - 0.1 = 0.8; 0.0 - 0.1 = -0.1
    assert penalised.sft[0]["sample_index"] == 1
    assert penalised.pairs[0]["margin"] == pytest.approx(0.9)
    assert penalised.pairs[0]["chosen_score"] == 0.9


def test_best_vs_random_takes_any_lower_answer_and_always_the_same_for_a_seed():
    rows = [row(f"p{p}", i, float(i)) for p in range(40) for i in range(4)]
    selection = select(rows, rule="best_vs_random", seed=5)
    assert {pair["chosen_sample_index"] for pair in selection.pairs} == {3}
    assert {pair["rejected_sample_index"] for pair in selection.pairs} == {0, 1, 2}
    assert sides(select(rows, rule="best_vs_random", seed=5)) == sides(selection)
    assert sides(select(rows, rule="best_vs_random", seed=6)) != sides(selection)


def test_best_vs_second_skips_a_tie_with_the_best():
    assert sides(select([row("p", i, s) for i, s in enumerate([1.0, 1.0, 0.8, 0.1])], rule="best_vs_second")) == [
        (0, 2)
    ]


def test_top_bottom_pairs_the_quarters_from_the_outside_in():
    rows = [row("p", i, float(i)) for i in range(8)]
    assert sides(select(rows, rule="top_bottom", quantile=0.25, num_pairs=9)) == [(7, 0), (6, 1)]
    assert sides(select(rows[:3], rule="top_bottom", quantile=0.5, num_pairs=9)) == [(2, 0)]


def test_pass_fail_pairs_right_with_wrong_answers_only():
    rows = [row("p", i, s) for i, s in enumerate([1.0, 0.0, 1.0, 0.0])] + [row("q", i, 1.0) for i in range(2)]
    selection = select(rows, rule="pass_fail", pass_score=1.0, num_pairs=10)
    assert sorted(sides(selection)) == [(0, 1), (0, 3), (2, 1), (2, 3)]
    assert selection.summary["prompts_without_pair"] == {"rule_proposed_none": 1}
    assert len(select(rows, rule="pass_fail", num_pairs=2).pairs) == 2


def test_two_models_may_share_sample_indices_but_a_repeated_row_is_dropped():
    rows = [
        row("p", 0, 1.0, "a", model="teacher"),
        row("p", 0, 0.0, "b", model="policy"),
        row("p", 0, 0.5, "c", model="policy"),
    ]
    selection = select(rows)
    assert [(p["chosen_model"], p["rejected_model"]) for p in selection.pairs] == [("teacher", "policy")]
    assert "model" not in selection.pairs[0]
    assert selection.summary["drop_reasons"] == {"duplicate": 1}


def test_lengths_that_differ_are_said():
    rows = [row("p", 0, 1.0, "x" * 50), row("p", 1, 0.0, "y" * 10)]
    summary = select(rows).summary
    assert (summary["mean_chosen_characters"], summary["mean_rejected_characters"]) == (50.0, 10.0)
    assert "50" in summary["warnings"][0] and "10" in summary["warnings"][0]
    assert select(rows, max_length_gap=4.0).summary["warnings"] == []


def test_rows_without_ids_are_grouped_by_their_prompt():
    rows = [{"prompt": "hello", "completion": f"hi {i}", "score": float(i)} for i in range(3)]
    selection = select(rows)
    assert len(selection.pairs) == 1
    assert selection.pairs[0]["prompt"] == [{"role": "user", "content": "hello"}]
    assert selection.sft[0]["completion"] == [{"role": "assistant", "content": "hi 2"}]


@pytest.mark.parametrize(
    "options, word",
    [({"rule": "best"}, "best_of_k"), ({"margin": -1.0}, "margin"), ({"margin": float("nan")}, "margin"),
     ({"num_pairs": 0}, "num_pairs"), ({"truncated": "keep"}, "truncated"), ({"quantile": 0.7}, "quantile"),
     ({"length_penalty": -0.1}, "length_penalty")],
)  # fmt: skip
def test_an_option_out_of_range_is_refused_by_name(options, word):
    with pytest.raises(RewardError, match=word):
        select([row("p", 0, 1.0)], **options)


def test_rows_that_were_never_scored_are_refused():
    unscored = row("p", 0, 1.0)
    del unscored["score"]
    with pytest.raises(PosttrainError, match="posttrain score"):
        select([unscored])


def test_one_id_for_two_prompts_is_refused():
    other = row("p", 1, 0.0)
    other["prompt"] = [{"role": "user", "content": "something else"}]
    with pytest.raises(DataError, match="two different prompts"):
        select([row("p", 0, 1.0), other])


def test_files_are_written(tmp_path):
    scored = tmp_path / "scored.jsonl"
    scored.write_text("".join(json.dumps(row("p", i, float(i))) + "\n" for i in range(3)))
    summary = select_file(scored, tmp_path / "out", rule="max_min", margin=0.5)
    pairs = [json.loads(line) for line in (tmp_path / "out" / "pairs.jsonl").read_text().splitlines()]
    sft = [json.loads(line) for line in (tmp_path / "out" / "sft.jsonl").read_text().splitlines()]
    assert [(p["chosen_score"], p["rejected_score"], p["margin"]) for p in pairs] == [(2.0, 0.0, 2.0)]
    assert [r["score"] for r in sft] == [2.0]
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    assert len((tmp_path / "out" / "dropped.jsonl").read_text().splitlines()) == 1

"""What DPO compares: masks, truncation, drops."""

import pytest
from training_data import say

from posttrain.config import DPOConfig
from posttrain.core.chat import end_of_turn_id
from posttrain.core.errors import DataError
from posttrain.train.pairs import PairCollator, tokenize_pairs


def config(**changes):
    return DPOConfig(max_steps=1, **changes)


def pair(prompt="list sort", chosen="red green blue", rejected="no"):
    return {"prompt": say("user", prompt), "chosen": say("assistant", chosen), "rejected": say("assistant", rejected)}


def test_format_tokens_are_masked_in_both_sides(tiny_tokenizer):
    for masked, expected in ((True, [1, 1, 1, 0]), (False, [1, 1, 1, 1])):
        dataset, _ = tokenize_pairs([pair(rejected="cat dog bird")], tiny_tokenizer, config(), masked)
        row = dataset[0]
        for side in ("chosen", "rejected"):
            assert row[f"{side}_ids"][-1] == end_of_turn_id(tiny_tokenizer)
            assert row[f"{side}_mask"] == [1, 1, 1, 1]  # the NLL term still learns to stop
            assert row[f"{side}_scored"] == expected


def test_a_part_holds_both_sides_and_points_at_the_predicting_position(tiny_tokenizer):
    rows = [pair(), pair("say", "cat", "dog bird fish house")]
    dataset, _ = tokenize_pairs(rows, tiny_tokenizer, config(), True)
    for packed in (False, True):
        part = PairCollator(dataset, tiny_tokenizer.pad_token_id, packed).part([0, 1])
        assert part["owner"].bincount().tolist() == [4, 2, 2, 5]
        assert part["counts"].tolist() == [2.0, 6.0]  # pairs; tokens of red green blue <end> and cat <end>
        words = tiny_tokenizer.convert_ids_to_tokens(part["targets"][part["scored"] > 0])
        assert words == ["red", "green", "blue", "no", "cat", "dog", "bird", "fish", "house"]
    # <bos> <user> list sort <end> <assistant>, then the two answers, then the other prompt of one word.
    assert part["ids"].shape == (1, 6 + 4 + 2 + 5 + 2 + 5)
    places = [5, 6, 7, 8, 5, 10, 16, 17, 16, 19, 20, 21, 22]
    assert part["places"].tolist() == places


def test_padded_rows_stand_under_each_other(tiny_tokenizer):
    rows = [pair(), pair("say", "cat", "dog bird fish house")]
    dataset, _ = tokenize_pairs(rows, tiny_tokenizer, config(), True)
    part = PairCollator(dataset, tiny_tokenizer.pad_token_id, packed=False).part([0, 1])
    assert part["ids"].shape == (4, 10)
    flat = part["ids"].reshape(-1)
    assert flat[part["places"] + 1].tolist() == part["targets"].tolist()
    assert (part["places"] // 10).tolist() == part["owner"].tolist()


def test_fillers_weigh_nothing(tiny_tokenizer):
    dataset, _ = tokenize_pairs([pair()], tiny_tokenizer, config(), True)
    batch = PairCollator(dataset, tiny_tokenizer.pad_token_id, packed=True)([[0], [-1]])
    assert [part["counts"].tolist() for part in batch["parts"]] == [[1.0, 4.0], [0.0, 0.0]]
    assert batch["counts"].tolist() == [1.0, 4.0]
    assert batch["parts"][1]["weights"].tolist() == [0.0]
    assert batch["num_tokens"] == (6 + 4) + (6 + 2)


@pytest.mark.parametrize("max_tokens", range(2, 14))
@pytest.mark.parametrize("prompt_words", [1, 4])
@pytest.mark.parametrize(("chosen_words", "rejected_words"), [(1, 1), (1, 6), (6, 1), (4, 6)])
def test_truncation_leaves_words_on_both_sides_or_drops_the_pair(
    tiny_tokenizer, max_tokens, prompt_words, chosen_words, rejected_words
):
    row = pair(" ".join(["list"] * prompt_words), " ".join(["cat"] * chosen_words), " ".join(["dog"] * rejected_words))
    section = config(max_tokens=max_tokens, max_truncated_rate=1.0)
    header = 1 + prompt_words + 1 + 1 + 1  # <bos> <user> words <end> <assistant>
    if header >= max_tokens:
        with pytest.raises(DataError, match="none of 1 rows is left"):
            tokenize_pairs([row], tiny_tokenizer, section, True)
        return
    dataset, intake = tokenize_pairs([row], tiny_tokenizer, section, True)
    kept = dataset[0]
    end = end_of_turn_id(tiny_tokenizer)
    assert len(kept["prompt_ids"]) == header
    for side, words in (("chosen", chosen_words), ("rejected", rejected_words)):
        room = min(words + 1, max_tokens - header)
        assert len(kept[f"{side}_ids"]) == room
        assert sum(kept[f"{side}_scored"]) >= 1
        assert (kept[f"{side}_ids"][-1] == end) == (room == words + 1)
    assert intake.num_truncated == int(header + max(chosen_words, rejected_words) + 1 > max_tokens)


def test_too_many_cut_rows_are_refused_with_the_number_to_allow(tiny_tokenizer):
    rows = [pair(chosen="red " * 20)] + [pair()] * 9
    with pytest.raises(DataError, match=r"1 of 10 rows \(10\.0%\).*max_truncated_rate=0\.100"):
        tokenize_pairs(rows, tiny_tokenizer, config(max_tokens=12), True)
    dataset, intake = tokenize_pairs(rows, tiny_tokenizer, config(max_tokens=12, max_truncated_rate=0.1), True)
    assert (len(dataset), intake.num_truncated) == (10, 1)


def test_equal_answers_are_dropped_and_counted(tiny_tokenizer):
    rows = [pair(chosen="cat", rejected="cat")] + [pair()] * 9
    dataset, intake = tokenize_pairs(rows, tiny_tokenizer, config(max_drop_rate=0.1), True)
    assert dataset["row"][:] == list(range(1, 10))
    assert intake.summary() == {
        "num_rows": 10, "num_trained": 9, "num_truncated": 0, "dropped": {"chosen equals rejected": 1},
    }  # fmt: skip
    with pytest.raises(DataError, match="1 × chosen equals rejected.*max_drop_rate 0.05"):
        tokenize_pairs(rows, tiny_tokenizer, config(), True)

"""What max_tokens does: an answer keeps something to learn, or its row is dropped and counted.

The word tokenizer makes the arithmetic plain: a prompt of p words is <bos> <user> p words <end> <assistant>, p + 4
tokens; an answer of a words is a + 1 tokens, its end of turn among them.
"""

import itertools

import pytest
from stock_templates import stock_tokenizer
from training_data import say

from posttrain.config import DPOConfig, RewardModelConfig, SFTConfig
from posttrain.core.chat import end_of_turn_id
from posttrain.core.errors import DataError
from posttrain.train.pairs import tokenize_pairs
from posttrain.train.rankings import as_rankings, tokenize_rankings
from posttrain.train.sft import IGNORED, tokenize_rows

ANYTHING = {"max_steps": 1, "max_truncated_rate": 1.0, "max_drop_rate": 1.0}
GRID = list(itertools.product((1, 3, 5), (1, 2, 6), (1, 2, 6)))  # words of prompt, chosen, rejected
LIMITS = range(6, 17)  # the shortest prompt has 5 tokens, the longest row 5 + 4 + 6 + 1 = 16


def words(role, word, number):
    return say(role, " ".join([word] * number))


def pair(prompt, chosen, rejected):
    return {
        "prompt": words("user", "list", prompt),
        "chosen": words("assistant", "cat", chosen),
        "rejected": words("assistant", "dog", rejected),
    }


@pytest.mark.parametrize("masks_format", [True, False])
@pytest.mark.parametrize("limit", LIMITS)
def test_both_sides_of_a_pair_keep_words_or_it_is_dropped_and_counted(tiny_tokenizer, limit, masks_format):
    config = DPOConfig(**ANYTHING, max_tokens=limit)
    dataset, intake = tokenize_pairs([pair(*sizes) for sizes in GRID], tiny_tokenizer, config, masks_format)
    end = end_of_turn_id(tiny_tokenizer)
    for row in dataset:
        prompt, chosen, rejected = GRID[row["row"]]
        # One list of prompt ids for both sides, whole and with its beginning.
        assert len(row["prompt_ids"]) == prompt + 4 and row["prompt_ids"][0] == tiny_tokenizer.bos_token_id
        room = limit - (prompt + 4)
        for side, answer in (("chosen", chosen), ("rejected", rejected)):
            ids, mask, scored = (row[f"{side}_{part}"] for part in ("ids", "mask", "scored"))
            assert len(ids) == min(answer + 1, room) and mask == [1] * len(ids)
            assert (end in ids) == (room > answer)  # nobody learns to stop in mid-sentence
            assert sum(scored) == min(answer, room) + (0 if masks_format else int(room > answer)) >= 1
    fits = [limit > prompt + 4 for prompt, _, _ in GRID]
    assert dataset["row"][:] == [place for place, whether in enumerate(fits) if whether]
    too_long = sum(prompt + 4 + max(chosen, rejected) + 1 > limit for prompt, chosen, rejected in GRID)
    assert intake.num_truncated == too_long
    assert sum(intake.dropped.values()) == len(GRID) - sum(fits)


@pytest.mark.parametrize("limit", LIMITS)
def test_an_sft_answer_keeps_words_or_its_row_is_dropped_and_counted(tiny_tokenizer, limit):
    sizes = [(prompt, answer) for prompt, answer, other in GRID if other == 1]
    rows = [{"prompt": words("user", "list", p), "completion": words("assistant", "cat", a)} for p, a in sizes]
    dataset, intake = tokenize_rows(rows, tiny_tokenizer, SFTConfig(**ANYTHING, max_tokens=limit))
    kept = [(prompt, answer) for prompt, answer in sizes if limit > prompt + 4]
    assert len(dataset) == len(kept) == len(sizes) - sum(intake.dropped.values())
    for row, (prompt, answer) in zip(dataset, kept, strict=True):
        labels = [token for token in row["labels"] if token != IGNORED]
        assert len(labels) == min(answer + 1, limit - (prompt + 4)) >= 1
        assert (end_of_turn_id(tiny_tokenizer) in labels) == (prompt + answer + 5 <= limit)
        assert row["input_ids"][0] == tiny_tokenizer.bos_token_id and len(row["input_ids"]) <= limit
    assert intake.num_truncated == sum(prompt + answer + 5 > limit for prompt, answer in sizes)


@pytest.mark.parametrize("limit", LIMITS)
def test_every_pair_of_a_ranking_keeps_words_on_both_sides(tiny_tokenizer, limit):
    sizes = (1, 2, 6)  # the ranking's answers, best first: three pairs
    ranking = {
        "prompt": words("user", "list", 1),
        "completions": [
            words("assistant", word, size) for word, size in zip(("cat", "dog", "fish"), sizes, strict=True)
        ],
    }
    config = RewardModelConfig(**ANYTHING, max_tokens=limit)
    (row,), intake = tokenize_rankings(as_rankings([ranking]), tiny_tokenizer, config)
    room = limit - 5
    assert len(row["prompt_ids"]) == 5
    assert row["answer_lengths"] == [min(size + 1, room) for size in sizes]
    assert min(row["answer_lengths"]) >= 1
    assert list(zip(row["better"], row["worse"], strict=True)) == [(0, 1), (0, 2), (1, 2)]
    ends = [place for place, token in enumerate(row["answer_ids"]) if token == end_of_turn_id(tiny_tokenizer)]
    stops = list(itertools.accumulate(row["answer_lengths"]))
    assert ends == [stop - 1 for stop, size in zip(stops, sizes, strict=True) if size + 1 <= room]
    assert intake.num_truncated == int(max(sizes) + 1 > room)


def test_a_limit_below_every_prompt_leaves_nothing_and_says_so(tiny_tokenizer):
    rows = [pair(*sizes) for sizes in GRID]
    with pytest.raises(DataError, match=r"none of 27 rows is left.*'longer than max_tokens': 27"):
        tokenize_pairs(rows, tiny_tokenizer, DPOConfig(**ANYTHING, max_tokens=5), True)


def test_sides_that_differ_beyond_the_limit_alone_are_dropped_as_too_long(tiny_tokenizer):
    """cat cat cat against cat cat: with a prompt of 5 tokens they differ from the eighth token on."""
    row = pair(1, 3, 1) | {"rejected": words("assistant", "cat", 2)}
    rows = [row, pair(1, 1, 1)]
    for limit, dropped in ((8, 0), (7, 1), (6, 1)):
        config = DPOConfig(**ANYTHING | {"max_drop_rate": 0.0}, max_tokens=limit)
        dataset, intake = tokenize_pairs(rows, tiny_tokenizer, config, True)
        assert (len(dataset), intake.dropped["longer than max_tokens"]) == (2 - dropped, dropped)


def test_of_a_cut_conversation_only_whole_answers_end(tiny_tokenizer):
    messages = [
        *say("system", "list sort"), *say("user", "red"), *say("assistant", "cat dog"), *say("user", "blue"),
        *say("assistant", "fish"),
    ]  # fmt: skip
    # <bos> <system> list sort <end> <user> red <end> <assistant> | cat dog <end> | <user> blue <end> <assistant> | ...
    ends = {limit: int(limit >= 12) + int(limit >= 18) for limit in range(10, 20)}
    for limit, number in ends.items():
        dataset, _ = tokenize_rows([{"messages": messages}], tiny_tokenizer, SFTConfig(**ANYTHING, max_tokens=limit))
        labels = dataset[0]["labels"]
        assert labels.count(end_of_turn_id(tiny_tokenizer)) == number
        assert sum(token != IGNORED for token in labels) == min(limit - 9, 3) + max(0, min(limit - 16, 2))


@pytest.mark.parametrize("name", ["llama 3.1", "qwen 2.5", "mistral 0.3"])
def test_padding_with_the_end_of_turn_hides_no_true_end(name):
    tokenizer = stock_tokenizer(name)
    assert tokenizer.pad_token_id == end_of_turn_id(tokenizer)
    rows = [
        {"messages": [*say("user", "hi"), *say("assistant", text), *say("user", "and"), *say("assistant", text)]}
        for text in ("yes", "yes, and a good deal more")
    ]
    dataset, _ = tokenize_rows(rows, tokenizer, SFTConfig(max_steps=1))
    assert [row["labels"].count(tokenizer.pad_token_id) for row in dataset] == [2, 2]
    assert [row["labels"][-1] for row in dataset] == [tokenizer.pad_token_id] * 2


@pytest.mark.parametrize("kind", ["sft", "dpo", "rankings"])
def test_more_than_five_rows_in_a_hundred_need_the_named_flag(tiny_tokenizer, kind):
    def tokenize(number, **changes):
        """100 rows, of which `number` are one token longer than max_tokens."""
        sizes = [4 if place < number else 3 for place in range(100)]  # 5 + 4 + 1 = 10 tokens, and 9
        if kind == "sft":
            rows = [{"prompt": words("user", "red", 1), "completion": words("assistant", "cat", s)} for s in sizes]
            return tokenize_rows(rows, tiny_tokenizer, SFTConfig(max_steps=1, max_tokens=9, **changes))[1]
        if kind == "dpo":
            return tokenize_pairs(
                [pair(1, size, 1) for size in sizes],
                tiny_tokenizer,
                DPOConfig(max_steps=1, max_tokens=9, **changes),
                True,
            )[1]
        rankings = [
            {"prompt": words("user", "red", 1), "completions": [words("assistant", "cat", s), say("assistant", "dog")]}
            for s in sizes
        ]
        config = RewardModelConfig(max_steps=1, max_tokens=9, **changes)
        return tokenize_rankings(as_rankings(rankings), tiny_tokenizer, config)[1]

    assert tokenize(5).summary()["num_truncated"] == 5
    with pytest.raises(DataError, match=r"6 of 100 rows \(6.0%\).*more than max_truncated_rate 0.05"):
        tokenize(6)
    assert tokenize(6, max_truncated_rate=0.06).summary() == {
        "num_rows": 100, "num_trained": 100, "num_truncated": 6, "dropped": {},
    }  # fmt: skip

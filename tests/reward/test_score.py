"""A score is one number: alone, in any batch, whatever the padding, equal to the classifier of transformers."""

import random

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from posttrain.core.chat import encode_example, load_tokenizer
from posttrain.core.models import load_reward_model
from reward.errors import RewardError
from reward.score import apply_head, last_token_scores, score_pairs, score_rows

WORDS = ["the", "a", "red", "green", "cat", "dog", "bird", "answer", "yes", "no", "one", "two", "three"]


@pytest.fixture(scope="module")
def tokenizer(tiny_reward_model_dir):
    return load_tokenizer(tiny_reward_model_dir)


@pytest.fixture(scope="module")
def model(tiny_reward_model_dir):
    return load_reward_model(tiny_reward_model_dir)


def words(chance, count):
    return " ".join(chance.choice(WORDS) for _ in range(count))


@pytest.fixture(scope="module")
def rows():
    chance = random.Random(0)
    return [
        {
            "prompt_id": f"p{i // 4}",
            "sample_index": i % 4,
            "prompt": [{"role": "user", "content": words(chance, 1 + i // 4)}],
            "completion": [{"role": "assistant", "content": words(chance, 1 + (i * 7) % 40)}],
            "extra": {"kept": i},
        }
        for i in range(32)
    ]


@pytest.fixture(scope="module")
def alone(rows, model, tokenizer):
    """What transformers gives for each row by itself, without padding."""
    scores = []
    for row in rows:
        ids = torch.tensor([encode_example(tokenizer, row["prompt"], row["completion"]).ids])
        with torch.no_grad():
            scores.append(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, 0].item())
    return scores


@pytest.mark.parametrize("max_batch_tokens", [1, 64, 200, 100_000])
def test_a_score_does_not_depend_on_the_batch_and_equals_transformers(rows, model, tokenizer, alone, max_batch_tokens):
    scored = score_rows(rows, model, tokenizer, max_batch_tokens=max_batch_tokens)
    assert [row["score"] for row in scored] == pytest.approx(alone, abs=1e-5)


def test_rows_come_back_in_order_with_their_columns(rows, model, tokenizer):
    scored = score_rows(rows, model, tokenizer, max_batch_tokens=64)
    assert [{k: v for k, v in row.items() if k != "score"} for row in scored] == rows
    assert "score" not in rows[0]


def test_a_dataset_is_taken_as_a_list_is(rows, model, tokenizer, alone):
    from datasets import Dataset

    scored = score_rows(Dataset.from_list(rows[:4]), model, tokenizer)
    assert [row["score"] for row in scored] == pytest.approx(alone[:4], abs=1e-5)


def test_neighbours_do_not_matter(rows, model, tokenizer, alone):
    shuffled = list(enumerate(rows))
    random.Random(3).shuffle(shuffled)
    scored = score_rows([row for _, row in shuffled], model, tokenizer, max_batch_tokens=300)
    for (index, _), row in zip(shuffled, scored, strict=True):
        assert row["score"] == pytest.approx(alone[index], abs=1e-5)


def test_scores_are_read_where_the_class_reads_them(tiny_reward_model_dir, tokenizer, rows, alone):
    """At the last token that is not the pad token, which is one before the end where the end of turn pads."""
    model = load_reward_model(tiny_reward_model_dir)
    model.config.pad_token_id = tokenizer.eos_token_id
    scored = score_rows(rows[:6], model, tokenizer)
    for row in scored:
        ids = torch.tensor([encode_example(tokenizer, row["prompt"], row["completion"]).ids])
        theirs = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, 0].item()
        assert row["score"] == pytest.approx(theirs, abs=1e-5)
    assert abs(scored[3]["score"] - alone[3]) > 1e-4


def test_what_stands_in_the_padding_does_not_matter(model, tokenizer, rows, monkeypatch):
    ids = [encode_example(tokenizer, row["prompt"], row["completion"]).ids for row in rows[:5]]
    plain = last_token_scores(model, model.score, ids)
    real = torch.full
    monkeypatch.setattr(torch, "full", lambda shape, _, **options: real(shape, 9, **options))
    assert last_token_scores(model, model.score, ids) == pytest.approx(plain, abs=1e-5)


def test_a_bfloat16_body_keeps_a_float32_head(tiny_reward_model_dir, tokenizer, rows, alone):
    model = load_reward_model(tiny_reward_model_dir, dtype="bfloat16")
    scores = [row["score"] for row in score_rows(rows, model, tokenizer)]
    assert scores == pytest.approx(alone, abs=0.05)
    rounded = torch.tensor(scores).to(torch.bfloat16).float()
    assert (rounded != torch.tensor(scores)).any()  # finer than bfloat16 can say


def test_the_head_reads_hidden_states_one_step_apart_as_two_scores(model):
    hidden = torch.ones(2, model.config.hidden_size, dtype=torch.bfloat16)
    hidden[1, 0] += 2**-7  # the next bfloat16 after 1
    first, second = apply_head(model.score, hidden).tolist()
    assert first != second


def test_rows_that_cannot_be_scored_say_why_and_spare_the_others(model, tokenizer, rows, alone):
    bad = [
        {"prompt": [{"role": "user", "content": "the"}], "completion": [{"role": "assistant", "content": "no " * 400}]},
        {"prompt": [], "completion": [{"role": "assistant", "content": "no"}]},
        {"prompt": [{"role": "user", "content": "the"}], "completion": None},
        {"prompt": [{"role": "user", "content": "the"}]},
    ]
    scored = score_rows([rows[0], *bad, rows[1]], model, tokenizer)
    assert [scored[0]["score"], scored[-1]["score"]] == pytest.approx(alone[:2], abs=1e-5)
    assert [row["score"] for row in scored[1:-1]] == [None] * 4
    assert scored[1]["drop_reason"].startswith("too long: 40") and "256" in scored[1]["drop_reason"]
    assert all(row["drop_reason"] for row in scored[1:-1])
    assert "drop_reason" not in scored[0]


def test_a_row_at_the_limit_is_scored_and_one_beyond_is_not(model, tokenizer, rows):
    length = len(encode_example(tokenizer, rows[5]["prompt"], rows[5]["completion"]).ids)
    assert score_rows([rows[5]], model, tokenizer, max_tokens=length)[0]["score"] is not None
    assert score_rows([rows[5]], model, tokenizer, max_tokens=length - 1)[0]["score"] is None


def test_an_empty_answer_has_a_score(model, tokenizer):
    row = {"prompt": [{"role": "user", "content": "the"}], "completion": [{"role": "assistant", "content": ""}]}
    assert isinstance(score_rows([row], model, tokenizer)[0]["score"], float)


def test_progress_counts_up_to_all_rows(model, tokenizer, rows):
    seen = []
    score_rows(rows, model, tokenizer, max_batch_tokens=100, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (32, 32) and len(seen) > 2 and seen == sorted(seen)


def test_pairs_get_both_scores(model, tokenizer, rows, alone):
    other = [{"role": "assistant", "content": "dog bird"}]
    pair = {"prompt": rows[4]["prompt"], "chosen": rows[4]["completion"], "rejected": other, "strength": "better"}
    long = {**pair, "rejected": [{"role": "assistant", "content": "no " * 400}]}
    kept, dropped = score_pairs([pair, long], model, tokenizer)
    assert len(kept) == 1 and kept[0]["strength"] == "better"
    assert kept[0]["chosen_score"] == pytest.approx(alone[4], abs=1e-5)
    rejected = score_rows([{"prompt": pair["prompt"], "completion": other}], model, tokenizer)[0]["score"]
    assert kept[0]["rejected_score"] == pytest.approx(rejected, abs=1e-5)
    assert dropped[0]["drop_reason"].startswith("rejected: too long")


def test_a_model_without_a_score_head_is_refused(tiny_model_dir, tokenizer, rows):
    from posttrain.core.models import load_causal_lm

    with pytest.raises(RewardError, match="score"):
        score_rows(rows[:1], load_causal_lm(tiny_model_dir), tokenizer)


def test_more_than_one_label_is_refused(tiny_model_dir, tokenizer, rows):
    three = AutoModelForSequenceClassification.from_pretrained(tiny_model_dir, num_labels=3)
    with pytest.raises(RewardError, match="3 labels"):
        score_rows(rows[:1], three, tokenizer)

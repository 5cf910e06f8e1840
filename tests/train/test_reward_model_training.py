import json
import math

import pytest
import torch
from training_data import copy_rows, preference_rows, say

from posttrain.config import LoraConfig, RewardModelConfig
from posttrain.core.chat import encode_example, load_tokenizer
from posttrain.core.errors import DataError
from posttrain.core.models import load_reward_model
from posttrain.train.forward import scores_at
from posttrain.train.reward_model import expand, split_by_prompt, train_reward_model
from reward.score import score_rows

COMMON = {"learning_rate": 1e-3, "global_batch_size": 8, "logging_steps": 1}


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)])
def test_it_learns_and_reports_on_prompts_it_has_not_seen(lora, tiny_model_dir, tmp_path, weights_of):
    config = RewardModelConfig(**{**COMMON, "learning_rate": 1e-2}, max_steps=25, lora=lora)
    rows = [{**row, "strength": "better"} for row in copy_rows(40)]
    result = train_reward_model(tiny_model_dir, rows, tmp_path, config, seed=0)
    assert (result["accuracy"], result["num_held_out"], result["num_trained"]) == (1.0, 4, 36)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["by_strength"] == {"better": {"accuracy": 1.0, "num_pairs": 4}}
    assert weights_of(tmp_path)["score.weight"].dtype == torch.float32


def test_scores_in_training_are_the_scorers(tiny_reward_model_dir):
    """One text, one number, also where the pad token ends a row and among rows of other lengths."""
    model, tokenizer = load_reward_model(tiny_reward_model_dir), load_tokenizer(tiny_reward_model_dir)
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in preference_rows(5)]
    ids = [encode_example(tokenizer, row["prompt"], row["completion"]).ids for row in rows]
    last = torch.tensor([len(row) - 1 for row in ids])
    padded = torch.full((5, int(last.max()) + 1), int(ids[0][-1]))
    for index, row in enumerate(ids):
        padded[index, : len(row)] = torch.tensor(row)
    with torch.no_grad():
        ours = scores_at(model, model.score, padded, last)
    scored = [row["score"] for row in score_rows(rows, model, tokenizer)]
    assert ours.dtype == torch.float32
    assert ours.tolist() == pytest.approx(scored, abs=1e-6)


def test_a_reward_model_to_start_from_keeps_its_head(tiny_reward_model_dir, tmp_path, weights_of):
    config = RewardModelConfig(**{**COMMON, "learning_rate": 1e-9}, max_steps=1, warmup_ratio=0.0)
    train_reward_model(tiny_reward_model_dir, preference_rows(6), tmp_path, config, seed=0)
    kept = weights_of(tiny_reward_model_dir)["score.weight"]
    assert torch.allclose(weights_of(tmp_path)["score.weight"], kept, atol=1e-7)


def test_margin_by_strength_worked_by_hand(tiny_model_dir, tmp_path, metrics_of):
    rows = [{**row, "strength": "significantly_better"} for row in preference_rows(9)]
    first = {}
    for margin in (False, True):
        config = RewardModelConfig(**COMMON, max_steps=1, margin=margin)
        train_reward_model(tiny_model_dir, rows, tmp_path / str(margin), config, seed=0)
        first[margin] = metrics_of(tmp_path / str(margin))[0]["loss"]
    # Scores are near 0 at the start: -log sigmoid(0 - 1) against -log sigmoid(0).
    assert first[True] - first[False] == pytest.approx(math.log(1 + math.e) - math.log(2), abs=0.02)


def test_margins_need_a_known_strength(tiny_model_dir, tmp_path):
    rows = [{**row, "strength": "better"} for row in preference_rows(3)]
    rows[1] = {**rows[1], "strength": "much better"}
    del rows[2]["strength"]
    config = RewardModelConfig(**COMMON, max_steps=1, margin=True)
    with pytest.raises(DataError, match=r"2 faults(.|\n)*pair 2: strength is 'much better'(.|\n)*pair 3.* None"):
        train_reward_model(tiny_model_dir, rows, tmp_path, config, seed=0)


def test_a_ranking_counts_as_all_of_its_pairs():
    answers = [say("assistant", text) for text in ("edited", "chosen", "rejected")]
    pairs = expand([{"prompt": say("user", "red"), "completions": answers, "prompt_id": "p"}])
    texts = [(pair["chosen"][0]["content"], pair["rejected"][0]["content"]) for pair in pairs]
    assert texts == [("edited", "chosen"), ("edited", "rejected"), ("chosen", "rejected")]


def test_prompts_are_held_out_whole_and_stay_held_out():
    rows = [row for row in preference_rows(30) for _ in range(2)]
    kept, held_out = split_by_prompt(rows, 0.1)
    assert {row["prompt_id"] for row in kept}.isdisjoint({row["prompt_id"] for row in held_out})
    assert (len(kept), len(held_out)) == (54, 6)
    assert split_by_prompt(rows[::-1], 0.1)[1] == held_out[::-1]
    with pytest.raises(DataError, match="at least 2 prompts"):
        split_by_prompt(rows[:2], 0.1)

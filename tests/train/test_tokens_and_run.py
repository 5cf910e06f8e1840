import subprocess
import sys

import pytest
from training_data import completion_rows, preference_rows, say

from posttrain.config import DPOConfig, RewardModelConfig, SFTConfig
from posttrain.core.errors import DataError, ModelError
from posttrain.train.errors import TrainError
from posttrain.train.run import train
from posttrain.train.tokens import show_tokens
from posttrain.train.trainer import DEFAULT_EXECUTION

PAIR = {"prompt": say("user", "red"), "chosen": say("assistant", "cat dog"), "rejected": say("assistant", "fish")}


def learned(line):
    return [token for token, mask in zip(line["tokens"], line["mask"], strict=True) if mask]


def test_tokens_of_sft_rows(tiny_model_dir):
    row = {"prompt": say("user", "red"), "completion": say("assistant", "cat dog")}
    (line,) = show_tokens("sft", tiny_model_dir, [row], SFTConfig(max_steps=1))
    assert line["tokens"] == ["<|bos|>", "<|user|>", "red", "<|end|>", "<|assistant|>", "cat", "dog", "<|end|>"]
    assert line["mask"] == [0, 0, 0, 0, 0, 1, 1, 1]
    assert len(line["ids"]) == 8


def test_tokens_of_pairs_come_side_by_side_with_what_is_compared(tiny_model_dir):
    lines = show_tokens("dpo", tiny_model_dir, [PAIR], DPOConfig(max_steps=1))
    assert [(line["side"], learned(line)) for line in lines] == [("chosen", ["cat", "dog"]), ("rejected", ["fish"])]
    lines = show_tokens("dpo", tiny_model_dir, [PAIR], DPOConfig(max_steps=1, mask_format_tokens=False))
    assert learned(lines[1]) == ["fish", "<|end|>"]


def test_tokens_of_rankings_and_of_rows_that_are_too_long(tiny_model_dir):
    row = {"prompt": say("user", "red"), "completions": [say("assistant", "cat"), say("assistant", "dog")]}
    lines = show_tokens("reward_model", tiny_model_dir, [row], RewardModelConfig(max_steps=1))
    assert [line["side"] for line in lines] == ["rank 1", "rank 2"]
    (line, _) = show_tokens("dpo", tiny_model_dir, [PAIR], DPOConfig(max_steps=1, max_tokens=5))
    assert line["drop_reason"] == "longer than max_tokens" and line["ids"] == []


def test_pairs_are_shown_cut_as_training_cuts_them(tiny_model_dir):
    row = {**PAIR, "rejected": say("assistant", "fish " * 9)}
    lines = show_tokens("dpo", tiny_model_dir, [row], DPOConfig(max_steps=1, max_tokens=7))
    assert [(learned(line), line.get("num_cut", 0)) for line in lines] == [(["cat", "dog"], 1), (["fish", "fish"], 8)]
    lines = show_tokens("dpo", tiny_model_dir, [row], DPOConfig(max_steps=1, max_tokens=5))
    assert [line["drop_reason"] for line in lines] == ["longer than max_tokens"] * 2


def test_characters_of_several_tokens_are_whole_with_their_last(tmp_path, tiny_model_dir):
    from stock_templates import stock_tokenizer

    stock_tokenizer("llama 3").save_pretrained(tmp_path)
    row = {"messages": [*say("user", "hi"), *say("assistant", "a 谢🙂\ufffd b")]}
    (line,) = show_tokens("sft", tmp_path, [row], SFTConfig(max_steps=1))
    assert "".join(line["text"]).endswith("a 谢🙂\ufffd b<|eot_id|>")
    place = line["text"].index("谢")  # three bytes, three tokens: no merge of them is in this small vocabulary
    assert line["text"][place - 2 : place] == ["", ""] and line["mask"][place - 2 : place] == [1, 1]
    assert len(line["text"]) == len(line["ids"]) == len(line["kinds"]) == len(line["tokens"])


def test_only_the_first_rows_are_shown(tiny_model_dir):
    lines = show_tokens("sft", tiny_model_dir, iter(completion_rows(9)), SFTConfig(max_steps=1), num_rows=3)
    assert [line["row"] for line in lines] == [0, 1, 2]


def test_run_trains_each_kind(tiny_model_dir, tmp_path):
    common = {"learning_rate": 1e-4, "max_steps": 1, "global_batch_size": 4}
    sft, pairs = completion_rows(4), preference_rows(6)
    for kind, rows, config in (
        ("sft", sft, SFTConfig(**common)), ("dpo", pairs, DPOConfig(**common)),
        ("reward_model", pairs, RewardModelConfig(**common)),
    ):  # fmt: skip
        result = train(kind, tiny_model_dir, rows, tmp_path / kind, config, 0, DEFAULT_EXECUTION)
        assert result["steps"] == 1
        assert (tmp_path / kind / "model.safetensors").is_file()


def test_run_refuses_what_does_not_fit(tiny_model_dir, tmp_path):
    with pytest.raises(TrainError, match="training dpo needs a DPOConfig, got a SFTConfig"):
        train("dpo", tiny_model_dir, [PAIR], tmp_path, SFTConfig(max_steps=1), 0, DEFAULT_EXECUTION)
    with pytest.raises(DataError, match="row 1"):
        train("dpo", tiny_model_dir, [{"prompt": "red"}], tmp_path, DPOConfig(max_steps=1), 0, DEFAULT_EXECUTION)
    with pytest.raises(ModelError, match="nowhere"):
        train("dpo", tmp_path / "nowhere", [PAIR], tmp_path, DPOConfig(max_steps=1), 0, DEFAULT_EXECUTION)


def test_the_door_loads_no_heavy_library():
    code = "import sys, posttrain.train.run; print([m for m in ('torch', 'transformers', 'trl') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

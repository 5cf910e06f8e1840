"""A tokenizer that pads with its end-of-turn token, as many published ones do, trains as any other."""

import shutil

import pytest
from training_data import completion_rows, preference_rows

from posttrain.config import DPOConfig, RewardModelConfig, SFTConfig
from posttrain.core.chat import end_of_turn_id, load_tokenizer
from posttrain.train.run import train
from posttrain.train.trainer import DEFAULT_EXECUTION

COMMON = {"learning_rate": 1e-3, "max_steps": 2, "global_batch_size": 6, "logging_steps": 1, "warmup_ratio": 0.0}
RUNS = {
    "sft": (SFTConfig(**COMMON), completion_rows(6)),
    "dpo": (DPOConfig(**COMMON, mask_format_tokens=False), preference_rows(6)),
    "reward_model": (RewardModelConfig(**COMMON), preference_rows(8)),
}


@pytest.mark.parametrize("kind", RUNS)
def test_losses_do_not_depend_on_the_padding_token(kind, tiny_model_dir, tmp_path, metrics_of):
    """A loss that took padding for words, or a true end of turn for padding, would be another one."""
    config, rows = RUNS[kind]
    same = tmp_path / "pads with end of turn"
    shutil.copytree(tiny_model_dir, same)
    tokenizer = load_tokenizer(same)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(same)
    assert load_tokenizer(same).pad_token_id == end_of_turn_id(tokenizer) != load_tokenizer(tiny_model_dir).pad_token_id
    curves = []
    for folder in (tiny_model_dir, same):
        out = tmp_path / f"out {len(curves)}"
        train(kind, folder, rows, out, config, 0, DEFAULT_EXECUTION)
        curves.append([(row["loss"], row["grad_norm"]) for row in metrics_of(out)])
    assert len(curves[0]) == 2
    for first, second in zip(*curves, strict=True):
        assert first == pytest.approx(second, rel=1e-5)

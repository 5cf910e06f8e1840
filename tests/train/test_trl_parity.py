"""The same steps as TRL's trainers, where both mean the same."""

import pytest
import trl
from datasets import Dataset
from training_data import completion_rows, preference_rows
from transformers import AutoModelForCausalLM

from posttrain.config import DPOConfig, RewardModelConfig, SFTConfig
from posttrain.core.chat import encode_example, load_tokenizer
from posttrain.core.models import init_reward_model
from posttrain.train.dpo import train_dpo
from posttrain.train.reward_model import RewardTrainer, split_by_prompt, train_reward_model
from posttrain.train.sft import train_sft

STEPS = 3


def trl_arguments(kind, out_dir, **extra):
    return kind(
        output_dir=str(out_dir), max_steps=STEPS, per_device_train_batch_size=8, learning_rate=1e-3, use_cpu=True,
        bf16=False, activation_checkpointing=False, logging_steps=1, report_to="none", save_strategy="no",
        disable_tqdm=True, max_length=None, **extra,
    )  # fmt: skip


def losses(history, key="loss"):
    found = [row[key] for row in history if key in row]
    assert len(found) == STEPS
    return found


def test_sft_losses_and_gradients_are_trls(tiny_model_dir, tmp_path, metrics_of):
    rows = completion_rows(8)
    config = SFTConfig(learning_rate=1e-3, max_steps=STEPS, global_batch_size=8, logging_steps=1)
    train_sft(tiny_model_dir, rows, tmp_path / "ours", config, seed=0)

    tokenizer = load_tokenizer(tiny_model_dir)
    encoded = [encode_example(tokenizer, row["prompt"], row["completion"]) for row in rows]
    labels = [[i if m else -100 for i, m in zip(e.ids, e.mask, strict=True)] for e in encoded]
    theirs = trl.SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_model_dir),
        args=trl_arguments(trl.SFTConfig, tmp_path / "trl"),
        train_dataset=Dataset.from_dict({"input_ids": [e.ids for e in encoded], "labels": labels}),
        processing_class=tokenizer,
    )
    theirs.train()
    ours = metrics_of(tmp_path / "ours")
    for name in ("loss", "grad_norm", "learning_rate", "mean_token_accuracy", "entropy", "num_tokens"):
        assert losses(ours, name) == pytest.approx(losses(theirs.state.log_history, name), rel=1e-5), name


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge", "sigmoid_norm"])
@pytest.mark.parametrize("nll_weight", [0.0, 0.2])
def test_dpo_losses_rewards_and_gradients_are_trls(tiny_model_dir, tmp_path, metrics_of, loss, nll_weight):
    rows = preference_rows(8)
    config = DPOConfig(
        learning_rate=1e-3, max_steps=STEPS, global_batch_size=8, logging_steps=1, loss=loss, beta=0.3,
        nll_weight=nll_weight, mask_format_tokens=False,
    )  # fmt: skip
    train_dpo(tiny_model_dir, rows, tmp_path / "ours", config, seed=0)

    kinds = {"loss_type": [loss, "sft"], "loss_weights": [1.0, nll_weight]} if nll_weight else {"loss_type": [loss]}
    theirs = trl.DPOTrainer(
        model=str(tiny_model_dir),
        args=trl_arguments(trl.DPOConfig, tmp_path / "trl", beta=0.3, **kinds),
        train_dataset=Dataset.from_list([{k: r[k] for k in ("prompt", "chosen", "rejected")} for r in rows]),
        processing_class=load_tokenizer(tiny_model_dir),
    )
    theirs.train()
    ours = metrics_of(tmp_path / "ours")
    names = ("loss", "grad_norm", "logps/chosen", "logps/rejected", "rewards/chosen", "rewards/rejected",
             "rewards/margins", "rewards/accuracies", "num_tokens")  # fmt: skip
    for name in names:
        assert losses(ours, name) == pytest.approx(losses(theirs.state.log_history, name), rel=1e-4, abs=1e-6), name


def test_reward_model_losses_and_gradients_are_trls(tiny_model_dir, tmp_path, metrics_of):
    rows = preference_rows(9)
    config = RewardModelConfig(learning_rate=1e-3, max_steps=STEPS, global_batch_size=8, logging_steps=1, center=0.1)
    train_reward_model(tiny_model_dir, rows, tmp_path / "ours", config, seed=0)

    kept, held_out = split_by_prompt(rows, config.held_out)
    assert (len(kept), len(held_out)) == (8, 1)
    tokenizer = load_tokenizer(tiny_model_dir)
    columns = {
        f"{side}_ids": [encode_example(tokenizer, row["prompt"], row[side]).ids for row in kept]
        for side in ("chosen", "rejected")
    }
    theirs = trl.RewardTrainer(
        model=init_reward_model(tiny_model_dir, seed=0),
        args=trl_arguments(trl.RewardConfig, tmp_path / "trl", center_rewards_coefficient=0.1),
        train_dataset=Dataset.from_dict(columns),
        processing_class=tokenizer,
    )
    theirs.train()
    ours = metrics_of(tmp_path / "ours")
    for name in ("loss", "grad_norm", "accuracy", "margin", "mean_reward", "min_reward", "max_reward", "num_tokens"):
        assert losses(ours, name) == pytest.approx(losses(theirs.state.log_history, name), rel=1e-4, abs=1e-6), name
    assert issubclass(RewardTrainer, trl.RewardTrainer)

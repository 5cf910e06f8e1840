"""Each guard refuses a run that really goes wrong, and its override lets that run through."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_data import completion_rows, copy_rows, preference_rows

from posttrain.config import DPOConfig, LoraConfig, SFTConfig
from posttrain.train import guards
from posttrain.train.dpo import train_dpo
from posttrain.train.errors import TrainError
from posttrain.train.guards import MAX_SKIPPED
from posttrain.train.sft import SFTTrainer, train_sft

ADAPTER = LoraConfig(rank=2, target_modules=("q_proj", "v_proj"))
SMALL = {"learning_rate": 1e-3, "max_steps": 4, "global_batch_size": 4}


@pytest.fixture
def changed_model(tiny_model_dir, tmp_path):
    """Copy the tiny model with some weights changed."""

    def change(function):
        folder = tmp_path / "model"
        folder.mkdir()
        for path in tiny_model_dir.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        weights = load_file(folder / "model.safetensors")
        function(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return change


def no_gradient(weights):
    # Both factors of the logits are 0, so neither gets a gradient, and nothing below them does.
    weights["model.norm.weight"].zero_()
    weights["lm_head.weight"].zero_()


def cut_off_layer(weights):
    # What q_proj and v_proj of the last layer give is multiplied by 0.
    weights["model.layers.1.self_attn.o_proj.weight"].zero_()


# Two of these come from training: in three seeds of weights and rows the drop is found at step 5 of 20, and the fifth
# step without anything to learn is 10 or 11.
PROVOKED = {
    "zero_gradient": (no_gradient, train_sft, SFTConfig(**SMALL), completion_rows(8), "gradient norm is 0 in step 1"),
    "still_adapter": (
        cut_off_layer, train_sft, SFTConfig(**SMALL, lora=ADAPTER), completion_rows(8),
        r"2 of 4 adapter matrices did not move, .*layers\.1\.self_attn",
    ),
    "stuck_loss": (
        None, train_dpo, DPOConfig(learning_rate=1e-12, max_steps=12, global_batch_size=2, warmup_ratio=0.1),
        preference_rows(2), r"has been ln 2 for 10 steps \(step 11\)",  # the step before is warm-up: 12 × 0.1 = 1
    ),
    "chosen_drop": (
        None, train_dpo,
        DPOConfig(learning_rate=0.03, max_steps=20, global_batch_size=8, nll_weight=0.0, max_chosen_drop=0.2),
        preference_rows(8), r"lost \d+\.\d\d nats per token at step \d+, more than max_chosen_drop 0\.2",
    ),
    "saturated": (
        None, train_dpo,
        DPOConfig(learning_rate=0.01, max_steps=20, global_batch_size=8, beta=2.0, max_chosen_drop=1e3),
        copy_rows(8), "every pair has been right with a loss under 0.001 for 5 steps",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROVOKED)
def test_guard_refuses_and_its_override_lets_through(name, tiny_model_dir, changed_model, tmp_path, monkeypatch):
    monkeypatch.setattr(guards, "STUCK_STEPS", 10)
    monkeypatch.setattr(guards, "SATURATED_STEPS", 5)
    change, train, config, rows, message = PROVOKED[name]
    model_dir = tiny_model_dir if change is None else changed_model(change)
    with pytest.raises(TrainError, match=message) as caught:
        train(model_dir, rows, tmp_path / "out", config, seed=0)
    assert f"allow: [{name}]" in str(caught.value)
    assert not (tmp_path / "out" / "model.safetensors").exists()
    allowed = config.model_copy(update={"allow": (name,)})
    assert train(model_dir, rows, tmp_path / "out", allowed, seed=0)["steps"] == config.max_steps


def test_a_model_that_is_broken_already_is_refused(changed_model, tmp_path):
    def spoil(weights):
        weights["model.layers.0.mlp.up_proj.weight"][3, 5] = math.nan

    with pytest.raises(TrainError, match=r"NaN or infinite numbers in 1 weights, model\.layers\.0\.mlp\.up_proj"):
        train_sft(changed_model(spoil), completion_rows(8), tmp_path / "out", SFTConfig(**SMALL), seed=0)


@pytest.mark.parametrize("allow", [(), ("skip_nan",)])
def test_a_weight_that_becomes_nan_stops_the_run(allow, tiny_model_dir, tmp_path, monkeypatch):
    whole = SFTTrainer.before_optimizer_step

    def spoil(trainer, step):
        whole(trainer, step)
        if step == 2:
            with torch.no_grad():
                trainer.model.model.norm.weight[0] = math.nan

    monkeypatch.setattr(SFTTrainer, "before_optimizer_step", spoil)
    config = SFTConfig(**{**SMALL, "max_steps": 20}, allow=allow, checkpoint_steps=1)
    # Steps 3, 4 and 5 may be left out, one more may not.
    skipped = f"in 4 steps in a row .step 6, .* the {MAX_SKIPPED} that skip_nan"
    message = skipped if allow else "the loss is nan at step 3 on"
    with pytest.raises(TrainError, match=message):
        train_sft(tiny_model_dir, completion_rows(8), tmp_path, config, seed=0)


def test_skip_nan_leaves_out_the_step_and_counts_it(tiny_model_dir, tmp_path, monkeypatch, metrics_of, caplog):
    seen, losses = {}, {}
    whole, end = SFTTrainer.batch_loss, SFTTrainer.before_optimizer_step

    def poison(trainer, model, batch, counts):
        loss = whole(trainer, model, batch, counts)
        losses[trainer.state.global_step + 1] = loss.item()
        return loss * math.nan if trainer.state.global_step == 2 else loss

    def note(trainer, step):
        seen[step] = trainer.model.lm_head.weight.detach().clone()
        end(trainer, step)

    monkeypatch.setattr(SFTTrainer, "batch_loss", poison)
    monkeypatch.setattr(SFTTrainer, "before_optimizer_step", note)
    config = SFTConfig(**{**SMALL, "max_steps": 6}, allow=("skip_nan",), logging_steps=3)
    train_sft(tiny_model_dir, completion_rows(8), tmp_path, config, seed=0)
    # `note` sees the weights before the update of its step: step 3 changed nothing, steps 2 and 4 did.
    assert seen[4].equal(seen[3]) and not seen[3].equal(seen[2]) and not seen[5].equal(seen[4])
    assert "step 3 is left out" in caplog.text
    first, third, _ = metrics_of(tmp_path)
    assert (first["step"], third["step"], third["skipped_steps"]) == (1, 3, 1.0)
    assert "skipped_steps" not in first
    # The loss of steps 2 and 3 is that of step 2 alone, the good one.
    assert third["loss"] == pytest.approx(losses[2], rel=1e-6) and losses[2] != losses[3]

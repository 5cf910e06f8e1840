import math

import pytest
import torch
from training_data import completion_rows, copy_rows, preference_rows

from posttrain.config import DPOConfig, LoraConfig, SFTConfig
from posttrain.train.dpo import train_dpo
from posttrain.train.errors import TrainError
from posttrain.train.guards import (
    SATURATED_STEPS,
    STUCK_STEPS,
    PreferenceWatch,
    adapter_snapshot,
    check_adapters_moved,
    check_gradient,
    check_loss,
)
from posttrain.train.sft import SFTTrainer, train_sft


def test_a_loss_that_is_no_number_names_the_rows():
    check_loss(0.5, 1, [3, 4])
    with pytest.raises(TrainError, match="nan at step 7 on rows 4, 12 of the data"):
        check_loss(math.nan, 7, [11, 3])


def test_nan_in_a_batch_stops_before_the_weights_change(tiny_model_dir, tmp_path, monkeypatch):
    seen = {}
    whole = SFTTrainer.batch_loss

    def poisoned(trainer, model, batch, counts):
        loss = whole(trainer, model, batch, counts)
        if trainer.state.global_step == 2:
            seen["before"] = {name: weight.detach().clone() for name, weight in model.named_parameters()}
            seen["model"] = model
            seen["rows"] = sorted(batch["rows"])
            return loss * math.nan
        return loss

    monkeypatch.setattr(SFTTrainer, "batch_loss", poisoned)
    with pytest.raises(TrainError, match="the loss is nan at step 3 on rows") as caught:
        train_sft(
            tiny_model_dir, completion_rows(12), tmp_path, SFTConfig(epochs=4, global_batch_size=4), seed=0
        )  # fmt: skip
    assert ", ".join(str(row + 1) for row in seen["rows"]) in str(caught.value)
    assert all(weight.equal(seen["before"][name]) for name, weight in seen["model"].named_parameters())
    assert not (tmp_path / "model.safetensors").exists()


def test_infinite_gradient_and_zero_gradient_in_step_one():
    check_gradient(0.0, 2, ())
    check_gradient(0.0, 1, ("zero_gradient",))
    with pytest.raises(TrainError, match=r"gradient norm is 0 in step 1.*allow: \[zero_gradient\]"):
        check_gradient(0.0, 1, ())
    with pytest.raises(TrainError, match="gradient norm is inf at step 5"):
        check_gradient(math.inf, 5, ("zero_gradient",))


class Adapted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for layer in ("q", "v"):
            setattr(self, layer, torch.nn.ParameterDict({"lora_A": torch.ones(2), "lora_B": torch.zeros(2)}))


def test_an_adapter_matrix_that_did_not_move_is_refused():
    model = Adapted()
    before = adapter_snapshot(model)
    with torch.no_grad():
        model.q["lora_B"].add_(1.0)
    with pytest.raises(TrainError, match=r"1 of 2 adapter matrices did not move, v\.lora_B"):
        check_adapters_moved(model, before, ())
    check_adapters_moved(model, before, ("still_adapter",))
    with torch.no_grad():
        model.v["lora_B"].add_(1.0)
    check_adapters_moved(model, before, ())


def test_adapters_of_a_warm_up_are_not_taken_for_dead(tiny_model_dir, tmp_path):
    config = SFTConfig(learning_rate=1e-3, max_steps=6, global_batch_size=4, warmup_ratio=0.5, lora=LoraConfig(rank=2))
    assert train_sft(tiny_model_dir, completion_rows(8), tmp_path, config, seed=0)["steps"] == 6


def test_collapse_of_chosen_answers_is_refused():
    watch = PreferenceWatch(max_chosen_drop=2.0, watches_ln2=True, allow=())
    watch.see(1, 0.6, 0.5, chosen_drop=1.9)
    with pytest.raises(TrainError, match="lost 2.10 nats per token at step 2, more than max_chosen_drop 2.0"):
        watch.see(2, 0.6, 0.5, chosen_drop=2.1)
    PreferenceWatch(2.0, True, allow=("chosen_drop",)).see(2, 0.6, 0.5, chosen_drop=9.0)


def test_collapse_stops_a_real_run(tiny_model_dir, tmp_path):
    config = DPOConfig(learning_rate=0.03, max_steps=60, global_batch_size=8, nll_weight=0.0, max_chosen_drop=0.2)
    with pytest.raises(TrainError, match="the policy is collapsing"):
        train_dpo(tiny_model_dir, preference_rows(8), tmp_path, config, seed=0)


def test_a_loss_stuck_at_ln2_is_refused_after_its_steps_in_a_row():
    watch = PreferenceWatch(5.0, True, ())
    for step in range(1, STUCK_STEPS):
        watch.see(step, math.log(2) + 5e-5, 0.5, 0.0)
    watch.see(50, 0.68, 0.5, 0.0)  # it moved: the count starts again
    for step in range(51, 50 + STUCK_STEPS):
        watch.see(step, math.log(2), 0.5, 0.0)
    with pytest.raises(TrainError, match="has been ln 2 for 50 steps"):
        watch.see(99, math.log(2), 0.5, 0.0)


def test_nothing_left_to_learn_is_refused():
    watch, allowed = PreferenceWatch(5.0, True, ()), PreferenceWatch(5.0, True, ("saturated",))
    for step in range(SATURATED_STEPS - 1):
        watch.see(step, 1e-4, 1.0, 0.0)
        allowed.see(step, 1e-4, 1.0, 0.0)
    allowed.see(99, 1e-4, 1.0, 0.0)
    with pytest.raises(TrainError, match="every pair has been right"):
        watch.see(99, 1e-4, 1.0, 0.0)


def test_the_nll_term_keeps_chosen_answers_likely(tiny_model_dir, tmp_path, metrics_of):
    last = {}
    for weight in (0.0, 1.0):
        config = DPOConfig(
            learning_rate=3e-3, max_steps=50, global_batch_size=8, nll_weight=weight, beta=0.5, allow=("saturated",)
        )
        train_dpo(tiny_model_dir, copy_rows(8), tmp_path / str(weight), config, seed=0)
        last[weight] = metrics_of(tmp_path / str(weight))[-1]["logps_per_token/chosen"]
    # Apart by 0.88 to 1.25 nats in four seeds of weights and rows, in each computed with three sets of instructions.
    assert last[1.0] > last[0.0] + 0.4


def test_fewer_steps_than_asked_is_an_error(tiny_model_dir, tmp_path, monkeypatch):
    whole = SFTTrainer.before_optimizer_step

    def stop_early(trainer, step):
        whole(trainer, step)
        trainer.control.should_training_stop = step == 2

    monkeypatch.setattr(SFTTrainer, "before_optimizer_step", stop_early)
    with pytest.raises(TrainError, match="ended after 2 of 5 steps"):
        train_sft(tiny_model_dir, completion_rows(8), tmp_path, SFTConfig(max_steps=5, global_batch_size=4), seed=0)

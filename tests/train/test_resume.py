"""A run that was cut off goes on as if it had not been."""

import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_data import completion_rows, preference_rows

from posttrain.config import DPOConfig, LoraConfig, SFTConfig
from posttrain.runner import state_after
from posttrain.train.checkpoints import check_room, checkpoints_in, fault_of, find_checkpoint, publish
from posttrain.train.dpo import train_dpo
from posttrain.train.errors import TrainError, TrainingInterrupted
from posttrain.train.sft import SFTTrainer, train_sft

COMMON = {"learning_rate": 1e-3, "max_steps": 8, "global_batch_size": 4, "logging_steps": 1, "checkpoint_steps": 3}
RUNS = {
    # 10 rows: three steps an epoch, so a checkpoint stands at an epoch's end and one inside an epoch.
    "sft": (train_sft, SFTConfig(**COMMON), completion_rows(10)),
    "sft_lora": (train_sft, SFTConfig(**COMMON, lora=LoraConfig(rank=2, dropout=0.1)), completion_rows(10)),
    "dpo": (train_dpo, DPOConfig(**COMMON), preference_rows(10)),
}


class Killed(Exception):
    pass


def cut_off_after(step):
    def progress(done, total):
        if done == step:
            raise Killed

    return progress


# Real kills are in test_killed.py; here what they leave out, dropout of adapters for one.
@pytest.mark.parametrize(("name", "killed_at"), [("sft_lora", 5), ("dpo", 8)])
def test_resumed_run_has_the_same_losses_and_bits(name, killed_at, tiny_model_dir, tmp_path, metrics_of):
    train, config, rows = RUNS[name]
    train(tiny_model_dir, rows, tmp_path / "straight", config, seed=0)
    with pytest.raises(Killed):
        train(tiny_model_dir, rows, tmp_path / "resumed", config, seed=0, progress=cut_off_after(killed_at))
    result = train(tiny_model_dir, rows, tmp_path / "resumed", config, seed=0)
    assert result["resumed_from"] == (killed_at - 1) // 3 * 3
    straight, resumed = metrics_of(tmp_path / "straight"), metrics_of(tmp_path / "resumed")
    assert [row["step"] for row in resumed] == list(range(1, 9))
    for key in ("loss", "learning_rate", "grad_norm", "num_tokens"):
        assert [row[key] for row in resumed] == [row[key] for row in straight]
    first, second = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("straight", "resumed"))
    assert first == second
    assert not (tmp_path / "resumed" / "checkpoints").exists()


def test_other_rows_or_another_config_are_refused(tiny_model_dir, tmp_path):
    train, config, rows = RUNS["sft"]
    with pytest.raises(Killed):
        train(tiny_model_dir, rows, tmp_path, config, seed=0, progress=cut_off_after(5))
    with pytest.raises(TrainError, match="a run with other rows; resuming would mix the two"):
        train(tiny_model_dir, rows[::-1], tmp_path, config, seed=0)
    changed = config.model_copy(update={"learning_rate": 2e-3})
    with pytest.raises(TrainError, match="a run with other config"):
        train(tiny_model_dir, rows, tmp_path, changed, seed=0)
    # How a run is carried out may change, and a guard may be switched off.
    how = {"logging_steps": 2, "allow": ("skip_nan",)}
    assert train(tiny_model_dir, rows, tmp_path, config.model_copy(update=how), seed=0)["resumed_from"] == 3


def test_other_starting_weights_are_refused(tiny_model_dir, tmp_path):
    train, config, rows = RUNS["sft"]
    model_dir = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model_dir)
    with pytest.raises(Killed):
        train(model_dir, rows, tmp_path / "out", config, seed=0, progress=cut_off_after(5))
    weights = load_file(model_dir / "model.safetensors")
    weights["model.norm.weight"][0] += 1.0
    save_file(weights, model_dir / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainError, match="a run with other starting weights"):
        train(model_dir, rows, tmp_path / "out", config, seed=0)


def test_a_folder_without_checkpoints_takes_another_run(tmp_path):
    assert find_checkpoint(tmp_path, {"rows": "a"}) is None
    assert find_checkpoint(tmp_path, {"rows": "b"}) is None
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(TrainError, match="other rows"):
        find_checkpoint(tmp_path, {"rows": "a"})


def test_half_written_checkpoints_are_passed_over(tiny_model_dir, tmp_path, caplog):
    train, config, rows = RUNS["sft"]
    with pytest.raises(Killed):
        train(tiny_model_dir, rows, tmp_path, config, seed=0, progress=cut_off_after(7))
    folder = tmp_path / "checkpoints"
    whole = folder / "checkpoint-6"
    assert fault_of(whole) is None
    parts = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "counts.pt", "model.safetensors")
    for number, missing in enumerate(parts):
        torn = folder / f"checkpoint-{7 + number}"
        shutil.copytree(whole, torn)
        (torn / missing).unlink()
        assert fault_of(torn) == f"{missing} missing"
    torn = folder / "checkpoint-20"
    shutil.copytree(whole, torn)
    weights = (torn / "model.safetensors").read_bytes()
    (torn / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert fault_of(torn) == "model.safetensors damaged"
    assert train(tiny_model_dir, rows, tmp_path, config, seed=0)["resumed_from"] == 6
    assert "checkpoint-20 (model.safetensors damaged), checkpoint-12 (model.safetensors missing)" in caplog.text
    assert "training goes on from checkpoint-6" in caplog.text


def test_the_newest_checkpoints_stay_and_later_ones_go(tmp_path):
    for step in (2, 4, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
    written = tmp_path / "unfinished" / "checkpoint-6"
    written.mkdir(parents=True)
    publish(written, tmp_path)
    # 20 is of a future that a damaged file has undone.
    assert [path.name for path in checkpoints_in(tmp_path)] == ["checkpoint-4", "checkpoint-6"]


def test_too_small_a_disk_is_refused_before_the_first_step(tmp_path, monkeypatch):
    model = torch.nn.Linear(1000, 1000, bias=False)  # 4 MB; with two moments of Adam 12 MB a checkpoint
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=39_000_000))
    with pytest.raises(TrainError, match=r"0.0 GB free, and 3 checkpoints .*allow: \[disk_space\]"):
        check_room(tmp_path, model, ())  # 3 × 12 MB + 4 MB = 40 MB
    check_room(tmp_path, model, ("disk_space",))
    (tmp_path / "checkpoint-2").mkdir()
    check_room(tmp_path, model, ())  # 2 × 12 MB + 4 MB = 28 MB


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert find_checkpoint(tmp_path / "checkpoints", {"rows": "a"}) is None


def test_a_run_that_cannot_write_checkpoints_stops_without_one(tiny_model_dir, tmp_path, monkeypatch):
    def signal_at_2(done, total):
        if done == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    train, config, rows = RUNS["sft"]
    monkeypatch.setattr(SFTTrainer, "saves_checkpoints", False)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingInterrupted, match="after step 2 of 8, .* cannot write checkpoints") as caught:
        train(tiny_model_dir, rows, tmp_path, config.model_copy(update={"checkpoint_steps": None}), 0,
              progress=signal_at_2)  # fmt: skip
    assert checkpoints_in(tmp_path / "checkpoints") == []
    assert signal.getsignal(signal.SIGTERM) == before
    assert state_after(caught.value) == "interrupted"

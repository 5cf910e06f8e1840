"""The reference of DPO is computed once for all that it depends on, and read from disk."""

import numpy as np
import pytest
from training_data import preference_rows

from posttrain.config import DPOConfig
from posttrain.train import dpo
from posttrain.train.dpo import train_dpo
from posttrain.train.reference import find_reference, reference_key, write_reference

COMMON = {"learning_rate": 1e-4, "max_steps": 2, "global_batch_size": 4, "logging_steps": 1}


@pytest.fixture
def computed(monkeypatch):
    """Count how often a reference is computed, and stop before training."""
    calls = []
    whole = dpo.compute_reference

    def counted(*args):
        calls.append(args)
        return whole(*args)

    monkeypatch.setattr(dpo, "compute_reference", counted)

    def stop(trainer, job):
        raise KeyboardInterrupt

    monkeypatch.setattr(dpo.DPOTrainer, "check_start", stop)
    return calls


def begin(folder, rows, out, **changes):
    with pytest.raises(KeyboardInterrupt):
        train_dpo(folder, rows, out, DPOConfig(**{**COMMON, **changes}), seed=0)


def test_it_is_computed_once_and_again_when_anything_it_depends_on_changes(
    tiny_model_dir, tiny_reward_model_dir, tmp_path, computed
):
    rows = preference_rows(6)
    changes = [{}, {"mask_format_tokens": False}, {"max_tokens": 9, "max_truncated_rate": 1.0}, {"dtype": "bfloat16"}]
    for number, change in enumerate(changes, start=1):
        for _ in range(2):
            begin(tiny_model_dir, rows, tmp_path, **change)
            assert len(computed) == number, change
    begin(tiny_model_dir, preference_rows(6, seed=1), tmp_path)
    assert len(computed) == 5
    # What it does not depend on: how strongly the policy is tied to it, and how fast it learns.
    begin(tiny_model_dir, rows, tmp_path, beta=0.5, learning_rate=1e-6, loss="ipo", device_batch_size=1)
    assert len(computed) == 5


def test_a_torn_file_is_not_believed(tmp_path):
    values = np.arange(8, dtype=np.float32)
    key = reference_key("model", {"rows": "x"}, "float32")
    assert find_reference(tmp_path, key, 8) is None
    write_reference(tmp_path / "new", key, values)
    found = find_reference(tmp_path / "new", key, 8)
    assert isinstance(found, np.memmap) and found.tolist() == values.tolist()
    assert find_reference(tmp_path / "new", key, 9) is None
    path = tmp_path / "new" / f"reference-{key}.npy"
    path.write_bytes(path.read_bytes()[:-3])
    assert find_reference(tmp_path / "new", key, 8) is None
    assert [file.name for file in (tmp_path / "new").iterdir()] == [path.name]

import json

import pytest
import torch


@pytest.fixture
def metrics_of():
    """Read a run's metrics.jsonl."""
    return lambda folder: [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def weights_of():
    """Read a folder's weights."""

    def read(folder):
        from safetensors.torch import load_file

        return load_file(folder / "model.safetensors")

    return read


@pytest.fixture
def largest_difference():
    def compare(first, second):
        assert first.keys() == second.keys() and first
        return max(float((first[name].float() - second[name].float()).abs().max()) for name in first)

    return compare


@pytest.fixture(autouse=True)
def deterministic():
    torch.manual_seed(0)

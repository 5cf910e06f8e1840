import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from posttrain.core.errors import ModelError
from posttrain.core.models import load_causal_lm
from posttrain.train.average import average_checkpoints


@pytest.fixture
def three(tiny_model_dir, tmp_path):
    """Three models whose weights are 1, 2 and 6 times one and the same."""
    folders = []
    for factor in (1.0, 2.0, 6.0):
        folder = tmp_path / f"model_{factor:.0f}"
        shutil.copytree(tiny_model_dir, folder)
        tensors = {name: weight * factor for name, weight in load_file(folder / "model.safetensors").items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        folders.append(folder)
    return folders


def test_uniform_and_weighted_means_worked_by_hand(three, tmp_path, weights_of):
    one = weights_of(three[0])
    result = average_checkpoints(three, tmp_path / "uniform")
    assert result["num_tensors"] == len(one) > 10
    for name, weight in weights_of(tmp_path / "uniform").items():
        assert torch.allclose(weight, one[name] * 3.0, rtol=1e-6)
    average_checkpoints(three, tmp_path / "weighted", [0.5, 0.25, 0.25])
    for name, weight in weights_of(tmp_path / "weighted").items():
        assert torch.allclose(weight, one[name] * 2.5, rtol=1e-6)


def test_the_result_loads_and_has_the_first_models_files(three, tmp_path):
    average_checkpoints(three[:2], tmp_path / "mean")
    load_causal_lm(tmp_path / "mean")
    names = {path.name for path in three[0].iterdir()}
    assert {path.name for path in (tmp_path / "mean").iterdir()} == names


def test_sums_are_float32_over_bfloat16_files(three, tmp_path, weights_of):
    for folder, value in zip(three, (1.0, 1.0 + 2**-7, 1.0), strict=True):
        tensors = {name: torch.full_like(w, value, dtype=torch.bfloat16) for name, w in weights_of(folder).items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    average_checkpoints(three, tmp_path / "mean", [0.2, 0.6, 0.2])
    mean = weights_of(tmp_path / "mean")["lm_head.weight"]
    # 1 + 0.6 / 128 rounds to 1 + 1 / 128; bfloat16 sums of 0.2, 0.6 and 0.2 would not.
    assert mean.dtype == torch.bfloat16
    assert mean.float().unique().tolist() == [1.0 + 2**-7]


def test_shards_are_read_where_they_lie(three, tmp_path, weights_of):
    whole = weights_of(three[1])
    names = sorted(whole)
    parts = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for file, part in parts.items():
        save_file({name: whole[name] for name in part}, three[1] / file, metadata={"format": "pt"})
    (three[1] / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (three[1] / "model.safetensors.index.json").write_text(json.dumps(index))
    average_checkpoints([three[0], three[1]], tmp_path / "whole_first")
    average_checkpoints([three[1], three[0]], tmp_path / "shards_first")
    one = weights_of(three[0])
    read = {name: weight for file in parts for name, weight in load_file(tmp_path / "shards_first" / file).items()}
    for name, weight in weights_of(tmp_path / "whole_first").items():
        assert torch.allclose(weight, one[name] * 1.5, rtol=1e-6)
        assert torch.equal(weight, read[name])


def test_models_that_do_not_match_are_refused_with_all_differences(three, tmp_path):
    config = json.loads((three[1] / "config.json").read_text())
    (three[1] / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    tensors = load_file(three[1] / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, three[1] / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"2 faults(.|\n)*rms_norm_eps 0.5(.|\n)*lacks the tensor model.norm.weight"):
        average_checkpoints(three, tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


@pytest.mark.parametrize("shares", [[0.5, 0.6], [1.0, 0.0], [1.0]])
def test_shares_that_are_none_are_refused(three, tmp_path, shares):
    with pytest.raises(ModelError, match="share"):
        average_checkpoints(three[:2], tmp_path / "mean", shares)

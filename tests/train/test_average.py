import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from posttrain.core.errors import ModelError
from posttrain.core.models import load_causal_lm
from posttrain.train import weight_blocks
from posttrain.train.average import average_checkpoints, greedy_average

ROOT = Path(__file__).parents[2]


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


def test_shapes_and_vocabularies_must_agree(three, tmp_path):
    tensors = load_file(three[1] / "model.safetensors")
    tensors["model.norm.weight"] = torch.ones(3)
    save_file(tensors, three[1] / "model.safetensors", metadata={"format": "pt"})
    tokenizer = json.loads((three[2] / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["zebra"] = 4096
    (three[2] / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match=r"norm.weight has shape \(3,\) (.|\n)*another vocabulary in .*model_6"):
        average_checkpoints(three, tmp_path / "mean")


def test_tensors_longer_than_a_block_are_whole(three, tmp_path, monkeypatch, weights_of):
    monkeypatch.setattr(weight_blocks, "BLOCK", 7)  # 32-wide rows: blocks end inside rows, the last one is short
    average_checkpoints(three, tmp_path / "mean")
    one = weights_of(three[0])
    for name, weight in weights_of(tmp_path / "mean").items():
        assert torch.allclose(weight, one[name] * 3.0, rtol=1e-6), name


def test_counters_are_the_first_models_and_odd_types_are_refused(three, tmp_path, weights_of):
    for number, folder in enumerate(three):
        tensors = load_file(folder / "model.safetensors") | {"steps": torch.tensor([5 + number, 6])}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    average_checkpoints(three[1:], tmp_path / "mean")
    assert weights_of(tmp_path / "mean")["steps"].tolist() == [6, 6]
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.float8_e4m3fn)
    save_file(tensors, three[2] / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="F8_E4M3, which cannot be averaged"):
        average_checkpoints(three, tmp_path / "other")


MEASURE = """
import sys
from pathlib import Path
from posttrain.train.average import average_checkpoints

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024

root = Path(sys.argv[1])
average_checkpoints([root / "small", root / "small"], root / "first")
before = peak()
average_checkpoints([root / "large"] * 4, root / "second")
print(peak() - before)
"""


@pytest.mark.slow
def test_memory_grows_neither_with_tensors_nor_with_models(tiny_model_dir, tmp_path):
    # 2 models with 1 tensor of 8 MiB, then 4 models with 2 of 24 MiB: a whole tensor or shard more would show.
    for name, count, size in (("small", 1, 8), ("large", 2, 24)):
        shutil.copytree(tiny_model_dir, tmp_path / name)
        tensors = {f"t{number}": torch.full((size << 18,), float(number)) for number in range(count)}
        save_file(tensors, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert float(run.stdout) < 12.0  # MiB; a block is 1
    assert load_file(tmp_path / "second" / "model.safetensors")["t1"].unique().tolist() == [1.0]


def test_greedy_averaging_keeps_what_helps(three, tmp_path, weights_of):
    one = weights_of(three[0])["model.norm.weight"]
    asked = []

    def score(folder):
        """Say how near the weights are to 1.6 times those of the first model."""
        asked.append(folder)
        return -abs(float(weights_of(folder)["model.norm.weight"][0] / one[0]) - 1.6)

    found = greedy_average(three, tmp_path / "soup", score)
    # Alone 1, 2, 6: off by 0.6, 0.4, 4.4. 2 with 1: 1.5, off by 0.1, kept. With 6 too: 3, off by 1.4, refused.
    assert found["members"] == [1, 0]
    assert found["scores"] == pytest.approx([-0.6, -0.4, -4.4], abs=1e-5)
    assert found["score"] == pytest.approx(-0.1, abs=1e-5)
    assert [(trial["members"], trial["kept"]) for trial in found["trials"]] == [([1, 0], True), ([1, 0, 2], False)]
    assert len(asked) == 5
    assert torch.allclose(weights_of(tmp_path / "soup")["model.norm.weight"], one * 1.5)
    load_causal_lm(tmp_path / "soup")
    assert {path.name for path in tmp_path.iterdir()} == {"model_1", "model_2", "model_6", "soup"}


def test_greedy_averaging_falls_back_to_the_best_single_model(three, tmp_path, weights_of):
    first = float(weights_of(three[0])["model.norm.weight"][0])
    largest = greedy_average(three, tmp_path / "soup", lambda f: float(weights_of(f)["model.norm.weight"][0]) / first)
    assert largest["members"] == [2] and not any(trial["kept"] for trial in largest["trials"])
    assert weights_of(tmp_path / "soup").keys() == weights_of(three[2]).keys()
    assert torch.equal(weights_of(tmp_path / "soup")["lm_head.weight"], weights_of(three[2])["lm_head.weight"])

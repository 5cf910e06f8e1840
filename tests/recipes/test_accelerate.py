"""The configurations for accelerate and DeepSpeed are read by them and say what they are meant to say."""

import json
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.deepspeed import HfDeepSpeedConfig
from torch.distributed.fsdp import MixedPrecisionPolicy

from posttrain.recipe import load_recipe

FOLDER = Path(__file__).parents[2] / "recipes" / "accelerate"
MACHINES = {"llama31_8b": (1, 8), "llama31_70b": (8, 64)}


def test_there_is_a_file_of_each_kind_for_each_size():
    names = {path.name for path in FOLDER.iterdir()}
    assert names == {f"{size}_{kind}" for size in MACHINES for kind in ("fsdp2.yaml", "zero3.json")}


@pytest.mark.parametrize("size", MACHINES)
def test_accelerate_reads_fsdp2(size, monkeypatch):
    config = load_config_from_file(str(FOLDER / f"{size}_fsdp2.yaml"))  # refuses unknown keys
    assert isinstance(config, ClusterConfig) and config.distributed_type == DistributedType.FSDP
    assert (config.num_machines, config.num_processes) == MACHINES[size]
    given = {key.removeprefix("fsdp_"): value for key, value in config.fsdp_config.items()}
    names = {"version": "fsdp_version", "offload_params": "cpu_offload"}
    plugin = FullyShardedDataParallelPlugin(**{names.get(key, key): value for key, value in given.items()})
    plugin.set_mixed_precision(config.mixed_precision)
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    assert plugin.activation_checkpointing is True and plugin.cpu_ram_efficient_loading is True
    assert isinstance(plugin.mixed_precision_policy, MixedPrecisionPolicy)
    dtype = load_recipe(FOLDER.parent / f"{size}.yaml").train.sft.dtype
    assert (dtype, config.mixed_precision) == ("bfloat16", "bf16")


@pytest.mark.parametrize("size", MACHINES)
def test_deepspeed_configurations_are_zero_3(size):
    config = HfDeepSpeedConfig(json.loads((FOLDER / f"{size}_zero3.json").read_text("utf-8")))
    assert config.is_zero3() and config.is_offload() == (size == "llama31_70b")
    assert config.is_true("bf16.enabled")
    assert config.is_true("zero_optimization.stage3_gather_16bit_weights_on_model_save")  # else nothing whole is saved
    assert config.get_value("train_batch_size") == "auto"  # the program's own numbers

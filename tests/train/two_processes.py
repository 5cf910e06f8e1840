"""Train what a file of jobs lists, one after the other, in the processes that torch's launcher starts."""

import json
import sys
from pathlib import Path

import torch.distributed

from posttrain.config import Execution
from posttrain.train import sharding, trainer
from posttrain.train.run import CONFIGS, train

held = []


def shard(model, device, dtype):
    """Divide as the trainer does, and note how many of the weights this process keeps."""
    sharding.shard(model, device, dtype)
    weights = list(model.parameters())
    held.append([sum(weight.to_local().numel() for weight in weights), sum(weight.numel() for weight in weights)])


def main(root: Path) -> None:
    """Read root/jobs.json; write each result to root/NAME."""
    trainer.shard = shard
    for job in json.loads((root / "jobs.json").read_text("utf-8")):
        config = CONFIGS[job["kind"]].model_validate(job["config"])
        execution = Execution.model_validate(job["execution"])
        result = train(job["kind"], job["model"], job["rows"], root / job["name"], config, 0, execution)
        if torch.distributed.get_rank() == 0:
            (root / job["name"] / "result.json").write_text(json.dumps(result | {"held": held[-1:]}))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

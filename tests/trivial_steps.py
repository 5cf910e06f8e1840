"""Stages that only note that they ran: the loop's commands are tried on them in seconds, without a model."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from posttrain.stages import STAGES, Stage, StageCall

RATE = {"win_rate": 0.6, "low": 0.5, "high": 0.7, "num_pairs": 4, "wins": 2, "ties": 1, "losses": 1, "unreadable": 0}
PROMPT = [{"role": "user", "content": "say one"}]
CHOSEN = [{"role": "assistant", "content": "one"}]
REJECTED = [{"role": "assistant", "content": "two"}]
SAMPLES = [
    {"prompt_id": "p", "sample_index": 0, "prompt": PROMPT, "completion": CHOSEN, "finish_reason": "stop"},
    {"prompt_id": "p", "sample_index": 1, "prompt": PROMPT, "completion": REJECTED, "finish_reason": "stop"},
    {"prompt_id": "q:1", "sample_index": 0, "prompt": PROMPT, "completion": CHOSEN, "finish_reason": "length"},
]
ROWS = {
    "source_prompts": {"prompts": [{"prompt_id": "p", "prompt": PROMPT, "source": "file"}]},
    "magpie": {"prompts": [{"prompt_id": "p", "prompt": PROMPT, "source": "magpie", "round": 1}]},
    "sample": {"completions": SAMPLES},
    "score": {"scored": [row | {"score": 2.0 - row["sample_index"]} for row in SAMPLES]},
    "select": {
        "sft": [SAMPLES[0] | {"score": 2.0}],
        "pairs": [
            {"prompt_id": "p", "prompt": PROMPT, "chosen": CHOSEN, "rejected": REJECTED, "margin": 1.0}
            | {"chosen_sample_index": 0, "rejected_sample_index": 1}
        ],
        "dropped": [{"prompt_id": "q:1", "prompt": PROMPT, "drop_reason": "every sample was cut"}],
    },
}
METRICS = {
    "gate": {"promoted": True, "reason": "not worse"},
    "win_rate": RATE,
    "ratings": {"ratings": []},
    "source_prompts": {"num_prompts": 1},
}


def fill(call: StageCall, name: str, **config) -> dict:
    """Write the stage's rows; stop or wait where the environment says so, after a line of work was done."""
    count = Path(os.environ["TRIVIAL_COUNT"])
    with open(count, "a") as file:
        file.write(f"{name}\n")
    with open(call.out / "work", "a") as file:
        file.write("begun\n")
    if name == os.environ.get("TRIVIAL_WAIT"):
        time.sleep(60)
    if name == os.environ.get("TRIVIAL_ERROR"):
        raise MemoryError
    for file_name, rows in ROWS.get(name, {}).items():
        (call.out / f"{file_name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {**METRICS.get(name, {}), **({"names": config["names"]} if "names" in config else {})}


def install() -> None:
    """Put the trivial function into every row of the table."""
    for name, stage in STAGES.items():
        STAGES[name] = TrivialStage(stage.name, stage.version, stage.reads, stage.writes, stage.function)


class TrivialStage(Stage):
    """A row of the table whose function is `fill`."""

    def load(self):
        """Return `fill` for this row."""
        return lambda call, **config: fill(call, self.name, **config)

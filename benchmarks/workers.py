"""Do two workers of one thread do nearly twice the work of one? Whole commands, `posttrain sample` and `score`.

Every run is the real command on the 39 M Llama in a process of its own. Starting takes several seconds, mostly imports,
whatever the work: a run of two prompts stands before each run and is subtracted from it. Completions all have the same
length here: the stop token is one of 32,000.

    python benchmarks/workers.py [--runs 3]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import workload

NUM_PROMPTS = 64
MAX_COMPLETION_TOKENS = 32
# Of every process: what is compared is one thread with two workers of one thread.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def command(*arguments: str) -> float:
    """Run a command of posttrain; return its seconds."""
    before = time.perf_counter()
    line = [sys.executable, "-c", "import sys; from posttrain.cli import main; sys.exit(main())", *arguments]
    subprocess.run(line, check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    return time.perf_counter() - before


def sample(folder: Path, workers: int, prompts: str) -> float:
    """Sample a file of prompts anew."""
    out = folder / f"{prompts}_samples_{workers}"
    shutil.rmtree(out, ignore_errors=True)
    files = ("--model", str(folder / "policy"), "--prompts", str(folder / f"{prompts}.jsonl"), "--out", str(out))
    numbers = ("--num-completions", str(workload.NUM_COMPLETIONS), "--temperature", "1", "--seed", "0")
    length = ("--max-completion-tokens", str(MAX_COMPLETION_TOKENS), "--workers", str(workers))
    return command("sample", *files, *numbers, *length)


def score(folder: Path, workers: int, prompts: str) -> float:
    """Score the samples of a file of prompts anew."""
    out = folder / f"{prompts}_scores_{workers}"
    shutil.rmtree(out, ignore_errors=True)
    completions = str(folder / f"{prompts}_samples_1" / "completions.jsonl")
    files = ("--reward-model", str(folder / "reward_model"), "--completions", completions, "--out", str(out))
    return command("score", *files, "--workers", str(workers))


def main() -> None:
    """Take turns, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    workload.describe_machine("cpu")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        workload.save_model(folder / "policy")
        workload.save_model(folder / "reward_model", reward_model=True)
        generator = torch.Generator().manual_seed(1)
        rows = [{"prompt": workload.prompt_messages(generator)} for _ in range(NUM_PROMPTS)]
        for name, part in (("all", rows), ("two", rows[:2])):
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
        for verb, run in (("sample", sample), ("score", score)):

            def work(workers: int, run: Callable[[Path, int, str], float] = run) -> float:
                return -run(folder, workers, "two") + run(folder, workers, "all")

            times = [(work(1), work(2)) for _ in range(runs)]
            one, two = (statistics.median(side) for side in zip(*times, strict=True))
            ratios = [first / second for first, second in times]
            print(
                f"{verb:6}  one worker {one:6.1f} s, two {two:6.1f} s (start subtracted); "
                f"ratio {statistics.median(ratios):.2f}  [{min(ratios):.2f}, {max(ratios):.2f}]",
                flush=True,
            )
        same = [(folder / f"all_samples_{workers}" / "completions.jsonl").read_bytes() for workers in (1, 2)]
        print("the samples of one worker and of two are", "the same bytes" if same[0] == same[1] else "NOT the same")


if __name__ == "__main__":
    main()

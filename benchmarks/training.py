"""Useful tokens per second of our trainers against TRL's, on the same rows in the same order in one process.

Pairs have prompts of 32 to 128 tokens and answers of exponential length (mean 60, cut at 256); eight make a step. TRL
runs with the settings that are best here: no activation checkpointing, its reference computed before, and the fastest
of several micro-batch sizes, and for SFT its padding-free rows; they are tried first. Useful tokens are those of the
rows, a pair's prompt counted for both sides. Steps are timed from the end of the first; a reference is computed before,
on both sides. In float32 the losses of both sides have to agree.

    python benchmarks/training.py [--kind dpo] [--dtype float32] [--runs 5] [--steps 3]
    python benchmarks/training.py --memory [--vocabulary 152000]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import trl
import workload
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from transformers.utils import logging
from workload import LengthMix, prompt_messages, words

from posttrain.config import DPOConfig, Execution, RewardModelConfig, SFTConfig
from posttrain.core.chat import encode_example, load_tokenizer
from posttrain.core.models import init_reward_model, load_causal_lm
from posttrain.train.dpo import train_dpo
from posttrain.train.reward_model import split_by_prompt, train_reward_model
from posttrain.train.sft import train_sft

ANSWERS = LengthMix(60, 256)
SHORTEST_PROMPT, LONGEST_PROMPT = 32, 128
BATCH = 8
RATE = 1e-4
MICRO_BATCHES = (8, 4, 2, 1)
KINDS = ("dpo", "sft", "reward_model")
Row = dict[str, Any]
Run = Callable[[], tuple[float, list[float]]]
"""Train, and give the seconds of the timed steps and the losses of all."""


def make_pairs(count: int, seed: int = 1) -> list[Row]:
    """Draw pairs; each side's length is exact."""
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randint(SHORTEST_PROMPT, LONGEST_PROMPT + 1, (count,), generator=generator).tolist()
    lengths = iter(ANSWERS.draw(2 * count, generator))
    rows = []
    for number, length in enumerate(prompts):
        sides = {
            side: [{"role": "assistant", "content": words(max(1, next(lengths) - 1), generator)}]
            for side in ("chosen", "rejected")
        }
        rows.append({"prompt": prompt_messages(generator, length), "prompt_id": f"p{number}", **sides})
    return rows


class Job:
    """Hold the model and the rows of a comparison, in the order in which our steps take them."""

    def __init__(self, folder: Path, kind: str, steps: int) -> None:
        self.folder, self.kind, self.steps = folder, kind, steps + 1  # the first warms up
        self.tokenizer = load_tokenizer(folder)
        self.config: dict[str, Any] = {
            "learning_rate": RATE, "max_steps": self.steps, "global_batch_size": BATCH, "warmup_ratio": 0.0,
            "logging_steps": 1, "schedule": "constant", "max_tokens": 2048,
        }  # fmt: skip
        count = BATCH * self.steps
        if kind == "reward_model":  # a prompt in a hundred is held out, and one at least
            self.rows = make_pairs(count + max(1, count // 99))
            while len(split_by_prompt(self.rows, 0.01)[0]) > count:
                self.rows.pop()
            kept = split_by_prompt(self.rows, 0.01)[0]
        else:
            self.rows = kept = make_pairs(count)
        order = np.random.default_rng([0, 0]).permutation(count)
        self.ordered = [kept[row] for row in order]
        sides = ("chosen",) if kind == "sft" else ("chosen", "rejected")
        encoded = [[encode_example(self.tokenizer, row["prompt"], row[side]) for side in sides] for row in self.ordered]
        self.encoded = encoded
        self.num_tokens = sum(len(example.ids) for row in encoded[BATCH:] for example in row)

    def ours(self, dtype: str) -> Run:
        def run() -> tuple[float, list[float]]:
            ends: list[float] = []
            out = tempfile.mkdtemp()

            def note(done: int, total: int) -> None:
                ends.append(time.perf_counter())

            arguments = (0, Execution(device="cpu"), note)
            if self.kind == "dpo":
                section = DPOConfig(**self.config, dtype=dtype, nll_weight=0.0, mask_format_tokens=False)
                train_dpo(self.folder, self.rows, out, section, *arguments)
            elif self.kind == "sft":
                rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in self.rows]
                train_sft(self.folder, rows, out, SFTConfig(**self.config, dtype=dtype), *arguments)
            else:
                section = RewardModelConfig(**self.config, dtype=dtype, held_out=0.01)
                train_reward_model(self.folder, self.rows, out, section, *arguments)
            losses = [json.loads(line)["loss"] for line in Path(out, "metrics.jsonl").read_text().splitlines()]
            shutil.rmtree(out)
            return ends[-1] - ends[0], losses

        return run

    def trls(self, dtype: str, micro_batch: int, padding_free: bool = False) -> Run:
        def run() -> tuple[float, list[float]]:
            out = tempfile.mkdtemp()
            trainer = self._trl_trainer(dtype, micro_batch, padding_free, out)
            clock = Clock()
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(clock)
            trainer.train()
            shutil.rmtree(out)
            return clock.ends[-1] - clock.ends[0], [row["loss"] for row in trainer.state.log_history if "loss" in row]

        return run

    def _trl_trainer(self, dtype: str, micro_batch: int, padding_free: bool, out: str) -> Any:
        arguments: dict[str, Any] = {
            "output_dir": out, "max_steps": self.steps, "per_device_train_batch_size": micro_batch,
            "gradient_accumulation_steps": BATCH // micro_batch, "learning_rate": RATE, "use_cpu": True,
            "bf16": dtype == "bfloat16", "activation_checkpointing": False, "logging_steps": 1, "report_to": "none",
            "save_strategy": "no", "disable_tqdm": True, "max_length": None, "lr_scheduler_type": "constant",
            "train_sampling_strategy": "sequential", "dataloader_pin_memory": False,
        }  # fmt: skip
        sides = ("chosen", "rejected")
        if self.kind == "sft":
            ids = [row[0].ids for row in self.encoded]
            labels = [[i if m else -100 for i, m in zip(row[0].ids, row[0].mask, strict=True)] for row in self.encoded]
            return trl.SFTTrainer(
                model=load_causal_lm(self.folder),
                args=trl.SFTConfig(**arguments, padding_free=padding_free),
                train_dataset=Dataset.from_dict({"input_ids": ids, "labels": labels}),
                processing_class=self.tokenizer,
            )
        if self.kind == "dpo":
            rows = [{name: row[name] for name in ("prompt", *sides)} for row in self.ordered]
            return trl.DPOTrainer(
                model=str(self.folder),
                args=trl.DPOConfig(**arguments, beta=0.1, precompute_ref_log_probs=True),
                train_dataset=Dataset.from_list(rows),
                processing_class=self.tokenizer,
            )
        columns = {f"{side}_ids": [row[place].ids for row in self.encoded] for place, side in enumerate(sides)}
        return trl.RewardTrainer(
            model=init_reward_model(self.folder, seed=0),
            args=trl.RewardConfig(**arguments),
            train_dataset=Dataset.from_dict(columns),
            processing_class=self.tokenizer,
        )

    def peers(self) -> dict[str, tuple[int, bool]]:
        """Name the settings of TRL that are tried: micro-batch size, and whether rows are padding-free."""
        settings = {f"micro-batch {size}": (size, False) for size in MICRO_BATCHES}
        return {**settings, "padding-free": (BATCH, True)} if self.kind == "sft" else settings

    def flops(self) -> float:
        """Count what the timed steps ask for at least: 6 for each weight that a token meets, a prompt taken once."""
        body = sum(
            weight.numel()
            for name, weight in load_causal_lm(self.folder).named_parameters()
            if "embed" not in name and "lm_head" not in name
        )
        head = workload.VOCABULARY * workload.llama_config().hidden_size
        timed = self.encoded[BATCH:]
        learned = sum(sum(example.mask) for row in timed for example in row)
        prompts = sum(len(row[0].ids) - sum(row[0].mask) for row in timed)
        return 6.0 * (body * (prompts + learned) + (0 if self.kind == "reward_model" else head * learned))


class Clock(TrainerCallback):
    """Note when steps end."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())


def compare(folder: Path, kind: str, dtypes: list[str], runs: int, steps: int) -> None:
    job = Job(folder, kind, steps)
    sides: dict[tuple[str, str], Run] = {}
    for dtype in dtypes:
        tried = {name: job.trls(dtype, *setting) for name, setting in job.peers().items()}
        seconds = {name: run()[0] for name, run in tried.items()}
        best = min(seconds, key=lambda name: seconds[name])
        shown = ", ".join(f"{name} {job.num_tokens / value:.0f}" for name, value in seconds.items())
        print(f"{kind:13}{dtype:9} TRL tried: {shown} useful tokens/s", flush=True)
        sides[dtype, "ours"], sides[dtype, f"TRL, {best}"] = job.ours(dtype), tried[best]
    rates: dict[tuple[str, str], list[float]] = {side: [] for side in sides}
    losses: dict[tuple[str, str], list[float]] = {}
    for _ in range(runs):
        for side, run in sides.items():
            seconds_taken, losses[side] = run()  # of which the first step only warms up
            rates[side].append(job.num_tokens / seconds_taken)
    peaks = {dtype: workload.matmul_peak(getattr(torch, dtype)) for dtype in dtypes}
    for (dtype, name), values in rates.items():
        rate = statistics.median(values)
        share = rate / job.num_tokens * job.flops() / peaks[dtype]
        line = f"{kind:13}{dtype:9} {name:20} {rate:7.0f} useful tokens/s {share:6.1%} of peak"
        if name != "ours":
            ratio, least, most = workload.paired_ratio(rates[dtype, "ours"], values)
            apart = max(abs(a - b) for a, b in zip(losses[dtype, "ours"], losses[dtype, name], strict=True))
            line += f"  ours is {ratio:5.2f} x  [{least:.2f}, {most:.2f}], losses apart by at most {apart:.1e}"
        print(line, flush=True)
    if len(dtypes) > 1:
        ours = max(statistics.median(v) for (_, name), v in rates.items() if name == "ours")
        theirs = max(statistics.median(v) for (_, name), v in rates.items() if name != "ours")
        print(f"{kind:13}best of each side: ours is {ours / theirs:.2f} x", flush=True)


def memory(kind: str, dtype: str, side: str, vocabulary: int) -> None:
    """Train a few steps in this process, and print the most memory beyond weights, gradients and Adam's moments."""
    workload.VOCABULARY, workload.NUM_WORDS = vocabulary, vocabulary - len(workload.CONTROL_TOKENS)
    with tempfile.TemporaryDirectory() as folder:
        job = Job(workload.save_model(Path(folder, "model")), kind, steps=2)
        weights = sum(weight.numel() for weight in load_causal_lm(job.folder).parameters())
        run = job.ours(dtype) if side == "ours" else job.trls(dtype, BATCH)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    beyond = (peak - before) / 1024 - 16 * weights / 2**20
    print(json.dumps({"peak_mib": peak / 1024, "beyond_mib": beyond}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, help="one of the comparisons")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--memory", action="store_true", help="peak memory of a step instead of speed")
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[workload.VOCABULARY])
    parser.add_argument("--side", choices=("ours", "TRL"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    kinds = [given.kind] if given.kind else list(KINDS)
    dtypes = [given.dtype] if given.dtype else ["float32", "bfloat16"]
    if given.side:
        memory(kinds[0], dtypes[0], given.side, given.vocabulary[0])
        return
    workload.describe_machine("cpu")
    if given.memory:
        for kind in kinds:
            for size in given.vocabulary:
                for side in ("ours", "TRL"):
                    options = ["--kind", kind, "--dtype", dtypes[0], "--side", side, "--vocabulary", str(size)]
                    done = subprocess.run([sys.executable, __file__, *options], stdout=subprocess.PIPE, check=True)
                    found = json.loads(done.stdout.splitlines()[-1])
                    print(f"{kind:13}{dtypes[0]:9} vocabulary {size:7,} {side:5} peak {found['peak_mib']:6.0f} MiB, "
                          f"{found['beyond_mib']:6.0f} beyond weights, gradients and moments", flush=True)  # fmt: skip
        return
    with tempfile.TemporaryDirectory() as folder:
        model = workload.save_model(Path(folder, "model"))
        for kind in kinds:
            compare(model, kind, dtypes, given.runs, given.steps)


if __name__ == "__main__":
    main()

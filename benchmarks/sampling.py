"""Useful tokens per second of the embedded engine against transformers' own two ways, on one job in one process.

`generate(num_return_sequences=K)` goes prompt by prompt, as people write it; `generate_batch` is transformers'
continuous batching, with the memory that it needs given in advance. A stop set of a share 1/mean of the vocabulary
makes lengths geometric, the discrete exponential, on all sides without touching any of them. Prompts are token ids on
all sides; useful tokens are those drawn up to and with the stop token.

    python benchmarks/sampling.py [--device cuda] [--runs 5] [--mix short] [--dtype float32]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import workload
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.utils import logging
from workload import LONG, NUM_COMPLETIONS, PROMPT_TOKENS, SHORT, VOCABULARY, LengthMix

from posttrain.core.models import load_causal_lm
from synth.engines.base import Request, SamplingParams, sample_seed
from synth.engines.transformers import TransformersEngine

MIXES = {"short": SHORT, "long": LONG}
# Prompts of a run, per side: enough that rows leave and enter for most of it. `generate` works prompt by prompt, and
# `generate_batch` with fewer rows at a time, so that fewer prompts give them the same rate.
NUM_PROMPTS = {"short": 48, "long": 24}
GENERATE_PROMPTS = {"short": 4, "long": 2}
BATCH_PROMPTS = {"short": 16, "long": 6}
# Rows at a time of `generate_batch`, which attends over all of them with one mask: 16, 32 and 64 were tried, with 256,
# 512 and 1,024 tokens a pass and pages of 32 and 128 tokens; this was the fastest or as fast.
BATCH_ROWS = 32


class Job:
    """Hold one comparison: the model in a dtype, the prompts and the stop set of a length mix."""

    def __init__(self, folder: Path, mix: str, dtype: str, device: str) -> None:
        generator = torch.Generator().manual_seed(1)
        self.device = device
        self.mix: LengthMix = MIXES[mix]
        self.prompts = torch.randint(10, VOCABULARY, (NUM_PROMPTS[mix], PROMPT_TOKENS), generator=generator).tolist()
        stops = torch.randperm(VOCABULARY, generator=generator)[: VOCABULARY // self.mix.mean]
        self.stop_ids = tuple(sorted(stops.tolist()))
        self.generate_prompts = self.prompts[: GENERATE_PROMPTS[mix]]
        self.batch_prompts = self.prompts[: BATCH_PROMPTS[mix]]
        self.model = load_causal_lm(folder, dtype, device)
        self.paged_model = load_causal_lm(folder, dtype, device)
        self.engine = TransformersEngine(folder, dtype, device)
        self.params = SamplingParams(1.0, 1.0, 0, self.mix.cut, self.stop_ids)
        self.config = GenerationConfig(
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=self.mix.cut,
            eos_token_id=list(self.stop_ids),
            pad_token_id=0,
            num_return_sequences=NUM_COMPLETIONS,
        )
        # Pages for all rows at once: nothing waits for memory, and a prompt fills whole pages, which its samples share.
        page = 32
        self.paged = ContinuousBatchingConfig(
            page_size=page,
            num_blocks=BATCH_ROWS * ((self.mix.cut + PROMPT_TOKENS) // page + 1),
            max_batch_tokens=256,
            max_requests_per_batch=BATCH_ROWS,
        )

    def ours(self) -> float:
        """Sample with the embedded engine; return useful tokens per second."""
        requests = [
            Request(
                key=str(index),
                prompt_ids=tuple(ids),
                messages=(),
                seeds=tuple(sample_seed(0, str(index), k) for k in range(NUM_COMPLETIONS)),
                sample_indices=tuple(range(NUM_COMPLETIONS)),
            )
            for index, ids in enumerate(self.prompts)
        ]
        return _rate(lambda: sum(sample.num_tokens for sample in self.engine.generate(requests, self.params)))

    def generate(self) -> float:
        """Sample with `generate`, one prompt at a time."""

        def run() -> int:
            useful = 0
            for ids in self.generate_prompts:
                prompt = torch.tensor([ids], device=self.device)
                out = self.model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=self.config)
                useful += sum(_useful(row, self.stop_ids) for row in out[:, len(ids) :].tolist())
            return useful

        return _rate(run)

    def generate_batch(self) -> float:
        """Sample with transformers' continuous batching."""

        def run() -> int:
            results = self.paged_model.generate_batch(
                self.batch_prompts,
                generation_config=self.config,
                continuous_batching_config=self.paged,
                progress_bar=False,
            )
            wanted = len(self.batch_prompts) * NUM_COMPLETIONS
            if len(results) != wanted or any(result.error for result in results.values()):
                raise SystemExit(f"generate_batch answered {len(results)} of {wanted}")
            return sum(len(result.generated_tokens) for result in results.values())

        return _rate(run)


def _rate(run: Callable[[], int]) -> float:
    started = time.perf_counter()
    useful = run()
    return useful / (time.perf_counter() - started)


def _useful(ids: list[int], stop_ids: tuple[int, ...]) -> int:
    stops = set(stop_ids)
    return next((place + 1 for place, token in enumerate(ids) if token in stops), len(ids))


def flops_per_token(model: torch.nn.Module) -> float:
    """Count the multiply-adds of one token twice, attention left out; the tied embedding counts once, as the head."""
    return 2.0 * sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 2)


def compare(folder: Path, mix: str, dtype: str, device: str, runs: int) -> None:
    """Print the three rates and the ratios of one length mix in one dtype."""
    job = Job(folder, mix, dtype, device)
    peak = workload.matmul_peak(getattr(torch, dtype), device)
    sides = {"ours": job.ours, "generate": job.generate, "generate_batch": job.generate_batch}
    rates = workload.alternate(sides, runs)
    for name, values in rates.items():
        share = statistics.median(values) * flops_per_token(job.model) / peak
        line = f"{mix:5}  {dtype:8}  {name:14}  {statistics.median(values):8.0f} useful tokens/s  {share:6.1%} of peak"
        if name != "ours":
            middle, least, largest = workload.paired_ratio(rates["ours"], values)
            line += f"  ours is {middle:5.2f} x  [{least:.2f}, {largest:.2f}]"
        print(line, flush=True)


def main() -> None:
    """Run the comparisons that the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--mix", choices=list(MIXES), action="append")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), action="append")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    workload.describe_machine(arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        model = workload.save_model(Path(folder))
        for mix in arguments.mix or MIXES:
            for dtype in arguments.dtype or ("float32", "bfloat16"):
                compare(model, mix, dtype, arguments.device, arguments.runs)


if __name__ == "__main__":
    main()

"""How much faster is scoring than the plain way, and how near do mixed lengths come to equal ones?

Plain is what one writes with transformers: rows in file order, sixteen at a time, padded to the longest,
AutoModelForSequenceClassification called with the attention mask. Ours is what `posttrain score` runs. Both get the
same rows as token ids, under torch.inference_mode, in one process, in turn.

A useful token is a token of a completion, end of turn included; the rows are the same, so the ratio of useful tokens
per second is that of rows per second. The share of the peak counts the arithmetic that a side really does, padding
included, against the matrix products of the machine measured in the same run.

    python benchmarks/scoring.py [--device cuda] [--runs 5]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from workload import (
    CONTROL_TOKENS,
    LONG,
    NUM_COMPLETIONS,
    PROMPT_TOKENS,
    SHORT,
    VOCABULARY,
    LengthMix,
    alternate,
    describe_machine,
    llama_config,
    matmul_peak,
    paired_ratio,
)

from posttrain.core.batching import pad_right
from posttrain.core.packed_linear import pack_linears
from posttrain.core.packing import shared_prefix_packs
from reward.forward import head_scores, packed_hidden
from reward.parity import why_padded

PLAIN_BATCH = 16
MAX_BATCH_TOKENS = 8192  # the default of `posttrain score`
# Prompts of a run: the whole takes two to three minutes on two cores that nobody else uses.
NUM_PROMPTS = {SHORT: 8, LONG: 8}


@dataclass(frozen=True)
class Rows:
    """Hold token ids of rows, their prompts, and the number of useful tokens."""

    ids: list[list[int]]
    groups: list[int]
    useful: int


def draw(lengths: Sequence[int], generator: torch.Generator) -> Rows:
    """Draw prompts of 128 tokens with K completions of these lengths."""

    def tokens(count: int) -> list[int]:
        return torch.randint(len(CONTROL_TOKENS), VOCABULARY, (count,), generator=generator).tolist()

    groups = [index // NUM_COMPLETIONS for index in range(len(lengths))]
    prompts = [tokens(PROMPT_TOKENS) for _ in range(max(groups) + 1)]
    rows = [prompts[group] + tokens(length) for group, length in zip(groups, lengths, strict=True)]
    return Rows(rows, groups, sum(lengths))


def score_plainly(model, rows: Rows) -> list[float]:
    """Score as a script with transformers does."""
    scores: list[float] = []
    for start in range(0, len(rows.ids), PLAIN_BATCH):
        ids_BT, mask_BT = pad_right(rows.ids[start : start + PLAIN_BATCH], model.config.pad_token_id)
        with torch.inference_mode():
            logits_B1 = model(input_ids=ids_BT.to(model.device), attention_mask=mask_BT.to(model.device)).logits
        scores += logits_B1[:, 0].float().tolist()
    return scores


def score_ours(model, rows: Rows) -> list[float]:
    """Score as `posttrain score` does."""
    scores = [0.0] * len(rows.ids)
    for places, hidden_BW in packed_hidden(model, rows.ids, rows.groups, MAX_BATCH_TOKENS):
        for place, score in zip(places, head_scores(model.score, hidden_BW), strict=True):
            scores[place] = score
    return scores


def rate(run: Callable[[], list[float]], useful: int) -> Callable[[], float]:
    """Make a function that runs once and returns useful tokens per second."""

    def measured() -> float:
        before = time.perf_counter()
        run()  # the scores are read as numbers, so a device has finished
        return useful / (time.perf_counter() - before)

    return measured


def flops(model, num_tokens: int, pairs: int) -> float:
    """Count the arithmetic of a forward pass: two per weight and token, four per head width, head, layer and pair."""
    config = model.config
    weights = sum(w.numel() for name, w in model.named_parameters() if w.ndim == 2 and "embed" not in name)
    return 2 * weights * num_tokens + 4 * config.hidden_size * config.num_hidden_layers * pairs


def flops_plain(model, rows: Rows) -> float:
    """Count what the padded batches compute, half of the square of attention."""
    widths = [max(map(len, rows.ids[start : start + PLAIN_BATCH])) for start in range(0, len(rows.ids), PLAIN_BATCH)]
    return flops(model, PLAIN_BATCH * sum(widths), PLAIN_BATCH * sum(width**2 for width in widths) // 2)


def flops_ours(model, rows: Rows) -> float:
    """Count what the packs compute. The last layer counts as whole, so that the share is a tenth too high."""
    packs = shared_prefix_packs(rows.ids, rows.groups, MAX_BATCH_TOKENS)
    segments = [segment for pack in packs for segment in pack.segments]
    pairs = sum(s.length**2 // 2 + s.length * (s.prefix[1] if s.prefix else 0) for s in segments)
    return flops(model, sum(len(pack.ids) for pack in packs), pairs)


def compare_with_plain(plain, ours, mix: LengthMix, runs: int) -> None:
    """Print both sides' rates and their ratio for one mix of lengths; the peak is measured beside each run."""
    generator = torch.Generator().manual_seed(1)
    rows = draw(mix.draw(NUM_PROMPTS[mix] * NUM_COMPLETIONS, generator), generator)
    gap = max(abs(a - b) for a, b in zip(score_plainly(plain, rows), score_ours(ours, rows), strict=True))
    sides = {
        "plain": rate(lambda: score_plainly(plain, rows), rows.useful),
        "ours": rate(lambda: score_ours(ours, rows), rows.useful),
        "peak": lambda: matmul_peak(plain.dtype, plain.device.type, seconds=0.3),
    }
    rates = alternate(sides, runs)
    middle, least, largest = paired_ratio(rates["ours"], rates["plain"])
    print(f"  {mix}: {len(rows.ids)} rows, {rows.useful} useful tokens, scores differ by at most {gap:.1g}")
    for side, count in (("plain", flops_plain(plain, rows)), ("ours", flops_ours(plain, rows))):
        share = paired_ratio(rates[side], rates["peak"])[0] * count / rows.useful
        print(f"    {side:5} {statistics.median(rates[side]):8.0f} useful tokens/s, {share:4.0%} of the peak")
    print(f"    peak {statistics.median(rates['peak']) / 1e9:.0f} GFLOP/s in matrix products")
    print(f"    ratio {middle:.2f} (min {least:.2f}, max {largest:.2f}; at least 4 is asked)", flush=True)


def compare_lengths(ours, mix: LengthMix, runs: int) -> None:
    """Print the ratio of useful tokens per second, mixed lengths to equal ones of the same mean."""
    generator = torch.Generator().manual_seed(2)
    lengths = mix.draw(NUM_PROMPTS[mix] * NUM_COMPLETIONS, generator)
    mixed = draw(lengths, generator)
    equal = draw([round(sum(lengths) / len(lengths))] * len(lengths), generator)
    sides = {
        "equal": rate(lambda: score_ours(ours, equal), equal.useful),
        "mixed": rate(lambda: score_ours(ours, mixed), mixed.useful),
    }
    rates = alternate(sides, runs)
    middle, least, largest = paired_ratio(rates["mixed"], rates["equal"])
    print(
        f"  {mix}: mixed {statistics.median(rates['mixed']):.0f}, equal {statistics.median(rates['equal']):.0f} useful "
        f"tokens/s, ratio {middle:.2f} (min {least:.2f}, max {largest:.2f}; at least 0.8 is asked)",
        flush=True,
    )


def main() -> None:
    """Measure both dtypes and both mixes."""
    from transformers import AutoModelForSequenceClassification

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    describe_machine(args.device)
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(llama_config(num_labels=1))
        model = model.to(args.device, dtype).eval()
        print(f"{dtype} on {args.device}", flush=True)
        ours = copy.deepcopy(model)
        pack_linears(ours.base_model)  # as load_reward_model does; the head stays in float32
        probe = draw(SHORT.draw(2 * NUM_COMPLETIONS, torch.Generator().manual_seed(0)), torch.Generator())
        why = why_padded(ours, ours.score, probe.ids, probe.groups, MAX_BATCH_TOKENS)
        if why is not None:
            sys.exit(f"the model is not run over packs: {why}")
        for mix in (SHORT, LONG):
            compare_with_plain(model, ours, mix, args.runs)
        for mix in (SHORT, LONG):
            compare_lengths(ours, mix, args.runs)


if __name__ == "__main__":
    main()

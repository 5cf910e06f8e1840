"""How much of the machine's peak a training uses: floating-point operations done over those that could be done.

Shapes: N parameters of matrices, T tokens.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch

MEASURED_SECONDS = 0.15
"""Time that measuring the peak takes, warm-up left out."""
_WIDTHS = {"cpu": 512, "cuda": 4096}


class Work:
    """Count the floating-point operations of training steps.

    A matrix of n parameters costs a token 2n operations forward, 2n backward through it, and 2n for its own gradient
    where it is trained: the 6·N·tokens of 2001.08361, and 4·N + 2·N_trained with adapters. The output head is counted
    for the positions that a loss reads, all others for every token that is not padding, a prompt once for each of its
    answers. Causal attention adds 2·L·d·T² per sequence forward and twice that backward (L layers, heads of d numbers
    together; half of 2204.02311, appendix B, which counts the masked half too). What recomputes activations is not
    counted, and what is saved (a prompt that two answers share) counts as done, so that the share tells how fast a step
    is, not how busy the processor.

    Args:
        model: a dense transformer; mixtures of experts use a part of their parameters, and are not counted.
        lengths: tokens of each row; attention is counted at their token-weighted mean, Σ T² / Σ T.
        dtype: compute type, float32 or bfloat16.
        num_processes: processes that share the work, each with a device of its own.
    """

    def __init__(self, model: Any, lengths: Any, dtype: str, num_processes: int = 1) -> None:
        head = model.get_output_embeddings()
        config = model.config.get_text_config()
        self.is_known = not any(getattr(config, name, None) for name in ("num_experts", "num_local_experts"))
        lengths = np.asarray(lengths, dtype=np.float64)
        context = float((lengths**2).sum() / lengths.sum())
        inputs = model.get_input_embeddings()
        body = [p for m in model.modules() if m is not inputs and m is not head for p in _matrices(m)]
        heads = (getattr(config, "head_dim", None) or 0) * (getattr(config, "num_attention_heads", None) or 0)
        width = heads or config.hidden_size
        self.per_token = _cost(body) + 6.0 * config.num_hidden_layers * width * context
        self.per_place = 0.0 if head is None else _cost(_matrices(head))
        self.flops = 0.0
        """Operations of this process since the last logged step."""
        self.peak = 0.0
        """Operations per second that the devices of all processes could do."""
        if self.is_known:
            self.peak = peak(next(model.parameters()).device, getattr(torch, dtype)) * num_processes

    def add(self, batch: Mapping[str, Any]) -> None:
        """Count a forward and backward pass over `num_tokens` tokens and the predictions at `places`, if any."""
        self.flops += self.per_token * batch["num_tokens"] + self.per_place * len(batch.get("places", ()))

    def read(self, flops: float, seconds: float) -> dict[str, float]:
        """Return `matmul_share`, operations per second of all processes over the peak, and count from 0 again."""
        self.flops = 0.0
        return {"matmul_share": flops / max(seconds, 1e-9) / self.peak} if self.is_known else {}


def _matrices(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [p for p in module.parameters(recurse=False) if p.ndim == 2]


def _cost(parameters: list[torch.nn.Parameter]) -> float:
    return float(sum(p.numel() * (6 if p.requires_grad else 4) for p in parameters))


@cache
def peak(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the operations per second of a square matrix product, the best of about 0.15 s, once per process.

    The process's own number of threads counts, and on a busy machine the peak is what is left of it.
    """
    width = _WIDTHS.get(device.type, 4096)
    generator = torch.Generator(device).manual_seed(0)  # training's own random numbers stay as they are
    a, b = torch.randn(2, width, width, device=device, generator=generator).to(dtype)
    product = a @ b
    best = float("inf")
    started = time.perf_counter()
    while time.perf_counter() - started < MEASURED_SECONDS:
        _wait(device)
        before = time.perf_counter()
        torch.mm(a, b, out=product)
        _wait(device)
        best = min(best, time.perf_counter() - before)
    return 2.0 * width**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

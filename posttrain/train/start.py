"""The model that a training starts from: float32 and trainable, or in 4 bits and frozen below adapters."""

from __future__ import annotations

from typing import Any

import torch
from transformers import BitsAndBytesConfig

from posttrain.core.models import check_unquantized, init_reward_model, load_causal_lm
from posttrain.train.trainer import Job, trainable

KEPT_WHOLE = ("lm_head", "score")
"""Layers that are never quantised: the heads."""


def starting_policy(job: Job) -> Any:
    """Load the language model of a job, ready to be trained.

    Raises:
        ModelError: the folder holds no whole language model, or one that is quantised.
    """
    check_unquantized(job.model_dir)
    if not job.in_4bit:
        return trainable(load_causal_lm(job.model_dir, dtype="float32", device=job.device))
    return load_causal_lm(job.model_dir, device=job.device, quantization=nf4())


def starting_reward_model(job: Job) -> Any:
    """Load the body of a job's model with a score head, ready to be trained.

    Raises:
        ModelError: the folder holds no whole model, or one that is quantised.
    """
    check_unquantized(job.model_dir)
    if not job.in_4bit:
        return trainable(init_reward_model(job.model_dir, job.seed, dtype="float32", device=job.device))
    return init_reward_model(job.model_dir, job.seed, device=job.device, quantization=nf4())


def nf4() -> BitsAndBytesConfig:
    """Return the quantisation of QLoRA (2305.14314): 4-bit normal floats, double quantisation, bfloat16 products."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=list(KEPT_WHOLE),
    )

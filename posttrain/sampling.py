"""`posttrain sample`: from options to an engine and a finished folder."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from posttrain.config import EndpointModel, Execution
from posttrain.core.chat import load_tokenizer
from posttrain.core.errors import DataError
from posttrain.core.model_files import check_model_dir, resolve
from posttrain.engines import device_of, open_ray_engine, params_of
from synth.completions import SamplingSummary, sample_completions
from synth.engines.base import Engine, SamplingParams
from synth.engines.transformers import TransformersEngine
from synth.workers import sample_with_workers


def sample_file(args: Namespace, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Sample every prompt of a file; the same call goes on after a kill and does nothing after success.

    Raises:
        DataError: Options that do not fit the engine, or prompts that cannot be read.
    """
    if args.ray is not None and args.engine != "transformers":
        raise DataError(f"--ray belongs to --engine transformers, not {args.engine}; leave one of them out")
    if args.workers > 1 and args.engine == "vllm":
        raise DataError("--engine vllm shares the accelerators out by itself; leave --workers out")
    if args.unchecked and args.engine != "vllm":
        raise DataError(f"--unchecked belongs to --engine vllm, not {args.engine}; leave one of them out")
    if args.engine == "openai":
        return dataclasses.asdict(_sample_endpoint(args, progress))
    for option, value in (
        ("--base-url", args.base_url),
        ("--local-copy", args.local_copy),
        ("--dialect", args.dialect),
    ):
        if value is not None:
            raise DataError(f"{option} belongs to --engine openai; leave it out or choose that engine")
    model = resolve(args.model)
    check_model_dir(model)
    tokenizer = load_tokenizer(model)
    params = params_of(_sampling(args), tokenizer, model)
    if args.ray is not None:
        return dataclasses.asdict(_sample_over_ray(args, model, tokenizer, params, progress))
    device = device_of(Execution(device=args.device))
    if args.engine == "transformers" and args.workers > 1:
        summary = sample_with_workers(
            args.prompts,
            model,
            args.num_completions,
            params,
            args.seed,
            args.out,
            args.workers,
            dtype=args.dtype,
            device=device,
            date=args.date,
            progress=progress,
        )
        return dataclasses.asdict(summary)
    engine: Engine
    if args.engine == "vllm":
        from synth.engines.vllm import VllmEngine

        engine = VllmEngine(model, args.dtype, checked=not args.unchecked)
    else:
        engine = TransformersEngine(model, args.dtype, device)
    return dataclasses.asdict(_draw(args, engine, tokenizer, params, progress))


def _sample_over_ray(
    args: Namespace, model: Path, tokenizer: Any, params: SamplingParams, progress: Callable[[int, int], None]
) -> SamplingSummary:
    execution = Execution(kind="ray", address=args.ray, workers=args.workers, device=args.device)
    with open_ray_engine(model, execution, args.dtype) as engine:
        return _draw(args, engine, tokenizer, params, progress)


def _draw(
    args: Namespace, engine: Engine, tokenizer: Any, params: SamplingParams, progress: Callable[[int, int], None]
) -> SamplingSummary:
    return sample_completions(
        args.prompts,
        engine,
        tokenizer,
        args.num_completions,
        params,
        args.seed,
        args.out,
        date=args.date,
        progress=progress,
    )


def _sample_endpoint(args: Namespace, progress: Callable[[int, int], None]) -> SamplingSummary:
    from synth.engines.openai import OpenAIEngine

    if args.date is not None:
        raise DataError("--date is for a chat template of ours; a server writes its own, so leave it out")
    if args.base_url is None:
        raise DataError("--engine openai needs --base-url, the address of the server ending in /v1")
    # A worker here is a share of the requests under way.
    concurrency = EndpointModel.model_fields["concurrency"].default * args.workers
    if args.local_copy is not None:
        check_model_dir(args.local_copy)
    engine = OpenAIEngine(
        args.base_url,
        args.model,
        api_key_env=args.api_key_env,
        concurrency=concurrency,
        dialect=args.dialect,
        local_copy=args.local_copy,
        max_doubtful_share=args.max_doubtful_share,
    )
    params = params_of(_sampling(args), None, None)
    return _draw(args, engine, None, params, progress)


def _sampling(args: Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in ("temperature", "top_p", "top_k", "max_completion_tokens")}

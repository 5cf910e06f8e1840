"""Point 4 of a round: K samples per prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from posttrain.config import EndpointModel
from posttrain.core.files import read_jsonl, read_rows, write_jsonl
from posttrain.engines import device_of, open_engine, open_ray_engine, open_tokenizer, params_of
from posttrain.stages import StageCall
from synth.completions import sample_completions
from synth.engines.base import Engine, SamplingParams


def sample(
    call: StageCall, endpoint: EndpointModel | None, sampling: dict[str, Any], seed: int, round: int
) -> dict[str, Any]:
    """Sample K completions of every prompt, each exactly once however often this is killed."""
    model = call.inputs.get("model")
    prompts = [row for path in call.inputs["prompts"] for row in read_rows(path / "prompts.jsonl")]
    prompts = [{**_with_system(row, sampling["system_prompt"]), "round": round} for row in prompts]
    tokenizer = open_tokenizer(model)
    params = params_of(sampling, tokenizer, model)
    if call.execution.ray_address is not None and model is not None:
        with open_ray_engine(model, call.execution) as engine:
            _draw(call, prompts, engine, tokenizer, params, sampling, seed)
    elif call.execution.workers > 1 and model is not None:
        _draw_with_workers(call, prompts, model, params, sampling, seed)
    else:
        _draw(call, prompts, open_engine(model, endpoint, call.execution), tokenizer, params, sampling, seed)
    if sampling["system_prompt"] is not None:
        _forget_system(call)
    return json.loads((call.out / "summary.json").read_text(encoding="utf-8"))


def _draw(
    call: StageCall,
    prompts: list[dict[str, Any]],
    engine: Engine,
    tokenizer: Any,
    params: SamplingParams,
    sampling: dict[str, Any],
    seed: int,
) -> None:
    sample_completions(
        prompts,
        engine,
        tokenizer,
        num_completions=sampling["num_completions"],
        params=params,
        seed=seed,
        out_dir=call.out,
        date=call.template_date,
        progress=call.progress,
    )


def _draw_with_workers(
    call: StageCall,
    prompts: list[dict[str, Any]],
    model: Path,
    params: SamplingParams,
    sampling: dict[str, Any],
    seed: int,
) -> None:
    from synth.workers import sample_with_workers

    sample_with_workers(
        prompts,
        model_dir=model,
        num_completions=sampling["num_completions"],
        params=params,
        seed=seed,
        out_dir=call.out,
        num_workers=call.execution.workers,
        device=device_of(call.execution),
        max_batch_tokens=call.execution.max_batch_tokens,
        date=call.template_date,
        progress=call.progress,
    )


def _with_system(row: dict[str, Any], system_prompt: str | None) -> dict[str, Any]:
    """Put the steering system prompt in front; the row remembers its own prompt, which is what is trained on."""
    if system_prompt is None:
        return row
    messages = [message for message in row["prompt"] if message["role"] != "system"]
    steering = {"role": "system", "content": system_prompt}
    return {**row, "prompt": [steering, *messages], "own_prompt": row["prompt"]}


def _forget_system(call: StageCall) -> None:
    path = call.out / "completions.jsonl"
    rows = [row for _, row in read_jsonl(path)]
    own = [
        {key: value for key, value in row.items() if key != "own_prompt"}
        | {"prompt": row.get("own_prompt", row["prompt"])}
        for row in rows
    ]
    write_jsonl(path, own)

"""Point 4 of a round: K samples per prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from posttrain.config import EndpointModel
from posttrain.core.errors import DataError
from posttrain.core.files import read_jsonl, write_jsonl
from posttrain.core.jsonl import decode_row
from posttrain.engines import device_of, open_engine, open_ray_engine, open_tokenizer, params_of
from posttrain.stages import StageCall
from synth.completions import sample_completions
from synth.engines.base import Engine, SamplingParams
from synth.prompt_sources import Entry, JsonlSource


def sample(
    call: StageCall, endpoint: EndpointModel | None, sampling: dict[str, Any], seed: int, round: int
) -> dict[str, Any]:
    """Sample K completions of every prompt, each exactly once however often this is killed."""
    model = call.inputs.get("model")
    prompts = RoundPrompts(call.inputs["prompts"], sampling["system_prompt"], round)
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


class RoundPrompts:
    """Stream the prompts of artifacts, with their round and the steering system prompt, as often as they are read."""

    def __init__(self, artifacts: Sequence[Path], system_prompt: str | None, round: int) -> None:
        self._sources = [JsonlSource(path / "prompts.jsonl") for path in artifacts]
        self._system_prompt, self._round = system_prompt, round
        self.place = ", ".join(source.place for source in self._sources)

    def entries(self) -> Iterator[Entry]:
        """Stream the lines of all files, counted from 1."""
        lines = ((source.place, entry) for source in self._sources for entry in source.entries())
        for number, (place, (line_number, mark, line)) in enumerate(lines, start=1):
            yield number, mark, (place, line_number, line)

    def row(self, raw: tuple[str, int, bytes]) -> dict[str, Any]:
        """Decode a line, given with its file and its number there.

        Raises:
            DataError: It is no JSON object, as no stage writes it.
        """
        place, line_number, line = raw
        row = decode_row(line)
        if isinstance(row, str):
            raise DataError(f"{place}:{line_number}: {row}. `posttrain verify` tells which artifact changed.")
        return {**_with_system(row, self._system_prompt), "round": self._round}


def _draw(
    call: StageCall,
    prompts: RoundPrompts,
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
    prompts: RoundPrompts,
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
    """Put the steering system prompt in front; the row remembers its own prompt, which is what is trained on.

    A row's own system message follows in the same message: it is trained under, so it has the last word.
    """
    if system_prompt is None:
        return row
    messages = [message for message in row["prompt"] if message["role"] != "system"]
    own = [str(message["content"]) for message in row["prompt"] if message["role"] == "system"]
    steering = {"role": "system", "content": "\n\n".join([system_prompt, *own])}
    return {**row, "prompt": [steering, *messages], "own_prompt": row["prompt"]}


def _forget_system(call: StageCall) -> None:
    path = call.out / "completions.jsonl"
    write_jsonl(path, (_with_own_prompt(row) for _, row in read_jsonl(path)))


def _with_own_prompt(row: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in row.items() if key != "own_prompt"}
    return {**kept, "prompt": row.get("own_prompt", row["prompt"])}

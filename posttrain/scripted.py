"""`posttrain sample --engine scripted`: a Python function in the model's place, without torch or transformers."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from posttrain.core.errors import DataError
from posttrain.core.files import content_hash, sha256_file
from posttrain.functions import function_file, load_function
from synth.completions import sample_completions
from synth.engines.base import EngineError, Request, SamplingParams
from synth.engines.scripted import Script, ScriptedEngine, echo
from synth.sampling_job import make_job
from synth.workers import sample_in_processes

ECHO = "echo"


def sample_file(args: Namespace, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Sample every prompt of a file from a script; otherwise as `posttrain.sampling.sample_file`.

    Raises:
        DataError: Options that do not fit the engine, no such function, or prompts that cannot be read.
        EngineError: The script failed; what it answered before is kept.
    """
    for option, value in (
        ("--base-url", args.base_url),
        ("--local-copy", args.local_copy),
        ("--dialect", args.dialect),
    ):
        if value is not None:
            raise DataError(f"{option} belongs to --engine openai; leave it out or choose that engine")
    if args.unchecked:
        raise DataError("--unchecked belongs to --engine vllm, not scripted; leave one of them out")
    if args.ray is not None:
        raise DataError("--ray belongs to --engine transformers, not scripted; leave one of them out")
    if args.date is not None:
        raise DataError("--date is for a chat template, and a script gets messages; leave it out")
    params = SamplingParams(args.temperature, args.top_p, args.top_k, args.max_completion_tokens, stop_ids=())
    opener = OpenScript(args.model, script_hash(args.model))
    if args.workers > 1:
        job = make_job(args.prompts, args.num_completions, params, args.seed, max_prompt_tokens=None, date=None)
        identity = {"kind": ScriptedEngine.kind, "model": opener.model}
        summary = sample_in_processes(job, opener, identity, args.out, args.workers, progress)
    else:
        engine, _ = opener(0, 1)
        summary = sample_completions(
            args.prompts, engine, None, args.num_completions, params, args.seed, args.out, progress=progress
        )
    return dataclasses.asdict(summary)


def script_hash(spec: str) -> str:
    """Name a script by its content: the word `echo`, or the hash of a function's file and its own name.

    Raises:
        DataError: It is neither `echo` nor a function that is there.
    """
    if spec == ECHO:
        return ECHO
    if ":" not in spec:
        what = "a folder" if Path(spec).is_dir() else "no function"
        raise DataError(
            f"--model {spec} is {what}, but --engine scripted samples from a Python function - give FILE.py:FUNCTION "
            f"or the word {ECHO}, or choose --engine transformers"
        )
    return content_hash({"file": sha256_file(function_file(spec)), "function": spec.rpartition(":")[2]})


@dataclasses.dataclass(frozen=True)
class OpenScript:
    """Open the engine of a script, in this process or in a worker.

    Attributes:
        spec: `echo`, `FILE.py:FUNCTION` or `package.module:function`.
        model: What names the script, see `script_hash`.
    """

    spec: str
    model: str

    def __call__(self, number: int, num_workers: int) -> tuple[ScriptedEngine, None]:
        """Make the engine of worker `number`."""
        script = echo if self.spec == ECHO else _checked(self.spec, load_function(self.spec))
        return ScriptedEngine(script, self.model, records=False), None


def _checked(spec: str, function: Callable[..., Any]) -> Script:
    """Say of which sample a user's function could make nothing."""

    def answer(request: Request, sample_index: int, seed: int) -> str:
        try:
            text = function(request, sample_index, seed)
        except Exception as error:
            raise EngineError(
                _failure(spec, request, sample_index, f"raised {type(error).__name__}: {error}")
            ) from error
        if not isinstance(text, str):
            raise EngineError(_failure(spec, request, sample_index, f"returned {text!r:.80}, expected a text"))
        return text

    return answer


def _failure(spec: str, request: Request, sample_index: int, what: str) -> str:
    return (
        f"the script {spec} {what} - for sample {sample_index} of prompt {request.key!r} - what it answered before is "
        "kept; mend it (a changed file is another model and needs another --out)"
    )

"""vLLM in this process, an optional extra: fast on accelerators, the same token ids, seeds and explicit parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from os import PathLike
from typing import Any

from transformers import AutoConfig

from posttrain.core.chat import decode_completion, load_tokenizer
from posttrain.core.model_files import check_model_dir, model_hash
from synth.engines.base import EngineError, ProbeReport, Request, Sample, SamplingParams
from synth.engines.handshake import ask_vllm, compare, local_probe

# vLLM returns a call's samples all at once; what is under way is lost at a kill, so calls are of a bounded size.
SAMPLES_PER_CALL = 4096


class VllmEngine:
    """Sample with vLLM's offline engine.

    Prompts go in as token ids, so no second chat template is at work; every parameter is written out and each sample
    has its own seed, so nothing comes from `generation_config.json` or from vLLM's default seed.

    Args:
        model_dir: a Hugging Face folder.
        dtype: of weights and cache.
        tensor_parallel_size: accelerators that share the model.
        gpu_memory_utilization: share of the accelerator's memory that vLLM takes.
        checked: compare its log-probs with those of a plain forward pass on the CPU, before the first sample.

    Raises:
        EngineError: vLLM is not installed.
    """

    kind = "vllm"

    def __init__(
        self,
        model_dir: str | PathLike[str],
        dtype: str = "bfloat16",
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float = 0.9,
        checked: bool = True,
    ) -> None:
        try:
            import vllm
        except ImportError as error:
            raise EngineError(
                "the engine 'vllm' needs the package vllm, which is not installed - run: pip install 'posttrain[vllm]'"
            ) from error
        check_model_dir(model_dir)
        self._vllm = vllm
        self._settings: dict[str, Any] = {
            "model": str(model_dir),
            "dtype": dtype,
            "tensor_parallel_size": tensor_parallel_size,
            "gpu_memory_utilization": gpu_memory_utilization,
            "generation_config": "vllm",  # vLLM's neutral values, not those of the model's folder
            "enable_prefix_caching": True,  # a prompt's samples share its keys and values
        }
        self._tokenizer = load_tokenizer(model_dir)
        self.model = model_hash(model_dir)
        self.identity = {"kind": self.kind, "model": self.model, "dtype": dtype, "vllm": vllm.__version__}
        config = AutoConfig.from_pretrained(model_dir).get_text_config()
        self.context_tokens: int | None = getattr(config, "max_position_embeddings", None)
        self.probe: ProbeReport | None = None
        self._checked = checked
        self._engine: Any = None  # takes the accelerator's memory, so made at the first request

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Sample]:
        """Yield the samples call by call, in the order of the requests.

        Raises:
            EngineError: vLLM's log-probs are not those of the model's weights, or it gave no usable answer.
        """
        if self._engine is None:
            self._engine = self._open()
        jobs = ((request, place) for request in requests for place in range(len(request.seeds)))
        while part := list(islice(jobs, SAMPLES_PER_CALL)):
            prompts = [{"prompt_token_ids": list(request.prompt_ids)} for request, _ in part]
            arguments = [sampling_arguments(params, request.seeds[place]) for request, place in part]
            own_params = [self._vllm.SamplingParams(**named) for named in arguments]
            outputs = self._engine.generate(prompts, own_params, use_tqdm=False)
            for (request, place), output in zip(part, outputs, strict=True):
                yield self._sample(request, place, output, params.stop_ids)

    def _open(self) -> Any:
        folder = self._settings["model"]
        # Before vLLM takes the memory; the weights that it ran are gone when vLLM loads its own.
        probe = local_probe(folder, self._settings["dtype"]) if self._checked else "it was not asked for"
        engine = self._vllm.LLM(**self._settings)
        self.probe = compare(probe, partial(ask_vllm, self._vllm, engine), "vLLM", folder)
        return engine

    def _sample(self, request: Request, place: int, output: Any, stops: Sequence[int]) -> Sample:
        if tuple(output.prompt_token_ids) != request.prompt_ids:
            raise EngineError(f"vLLM answered another prompt than {request.key!r}; this is a fault of its version")
        (completion,) = output.outputs
        if completion.finish_reason not in ("stop", "length"):
            raise EngineError(f"vLLM ended a sample of {request.key!r} with {completion.finish_reason!r}")
        ids = tuple(completion.token_ids)
        return Sample(
            key=request.key,
            sample_index=request.sample_indices[place],
            text=decode_completion(self._tokenizer, ids, stops),
            ids=ids,
            finish_reason=completion.finish_reason,
            num_tokens=len(ids),
            seed=request.seeds[place],
        )


def sampling_arguments(params: SamplingParams, seed: int) -> dict[str, Any]:
    """Write out vLLM's sampling parameters; what is not asked for has its neutral value."""
    return {
        "n": 1,
        "seed": seed,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k or -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "max_tokens": params.max_completion_tokens,
        "stop_token_ids": list(params.stop_ids),
        "detokenize": False,
    }

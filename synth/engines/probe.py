"""The start-up check: the engine's own log-probs of a fixed text against those of a plain forward pass.

Shapes: N rows, V vocabulary, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from posttrain.core.batching import token_logprobs
from posttrain.core.chat import encode_prompt
from posttrain.core.errors import MISFITS, DataError, ModelError
from synth.engines.base import EngineError, Request, SamplingParams
from synth.engines.running import RunningBatch, context_of
from synth.engines.step import ATTENTION

_KNOWN_LAYERS = {"full_attention", "sliding_attention"}
_PROBE = [{"role": "user", "content": "Name three primary colours, then say which of them you like best, and why."}]
_COMPLETION = "Red, yellow and blue. I like blue best: it is the colour of the sea on a clear day, and of a good sky."
# Tokens of the completion that are compared.
_MOST_TOKENS = 24
# Mean difference in nats that float32 explains, that a lower precision explains at least, and how many times what it
# does to the plain forward pass: engines that round differently are all about as far from float32.
_LIMIT = 1e-3
_LEAST_LIMIT = 5e-3
_ROUNDINGS = 2.5


def require_known_layers(config: PretrainedConfig) -> None:
    """Refuse models whose layers keep a state that is no list of keys and values.

    Raises:
        ModelError: a layer type that slots cannot hold (Mamba, linear or chunked attention, …).
    """
    unknown = set(getattr(config, "layer_types", None) or ()) - _KNOWN_LAYERS
    if unknown:
        raise ModelError(
            f"model type {config.model_type!r} has layers of type {', '.join(sorted(unknown))}, which the "
            "'transformers' engine cannot sample from - serve the model and use the 'openai' engine, or use 'vllm'"
        )


@dataclass(frozen=True)
class Probe:
    """Hold a text as tokens, and the log-probs that a plain forward pass gives the tokens of its completion.

    Attributes:
        prompt: token ids.
        completion: token ids that follow.
        logprobs_T: of the completion's tokens, in nats, computed in float32.
        rounding: the mean difference, in nats a token, to the same weights run in their own precision, or in the one
            that an engine may take; 0 in float32.
    """

    prompt: list[int]
    completion: list[int]
    logprobs_T: Tensor
    rounding: float = 0.0

    @property
    def limit(self) -> float:
        """Return the mean difference above which an engine does not run these weights."""
        return max(_LEAST_LIMIT, _ROUNDINGS * self.rounding) if self.rounding else _LIMIT


@torch.inference_mode()
def take_probe(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Probe:
    """Run a fixed text through the model as it was loaded."""
    try:
        prompt = encode_prompt(tokenizer, _PROBE, date="1 Jan 2025")
    except DataError:  # a template that wants more than one message of a user
        prompt = tokenizer(str(_PROBE[0]["content"]), add_special_tokens=False)["input_ids"]
    completion = tokenizer(_COMPLETION, add_special_tokens=False)["input_ids"][:_MOST_TOKENS]
    room = context_of(model.config.get_text_config())
    if room is not None:  # a tiny context still has to hold the probe
        prompt = prompt[: max(1, room // 2)]
        completion = completion[: max(1, room - len(prompt))]
    probe = Probe(prompt, completion, _plain(model, prompt, completion))
    if model.dtype == torch.float32:
        return probe
    with _in_float32(model) as exact:
        return rounded(replace(probe, logprobs_T=_plain(exact, prompt, completion)), probe.logprobs_T)


def rounded(probe: Probe, logprobs_T: Tensor) -> Probe:
    """Note how far the log-probs of a lower precision are from a probe's."""
    return replace(probe, rounding=float((logprobs_T - probe.logprobs_T).abs().mean()))


@torch.inference_mode()
def rounded_to_bfloat16(probe: Probe, model: PreTrainedModel) -> Probe:
    """Note what bfloat16 would do to a probe that was taken in float32; the model is left in bfloat16."""
    model.bfloat16()
    return rounded(probe, _plain(model, probe.prompt, probe.completion))


def _plain(model: PreTrainedModel, prompt: list[int], completion: list[int]) -> Tensor:
    ids_1T = torch.tensor([prompt + completion], device=model.device)
    return token_logprobs(model, ids_1T, torch.ones_like(ids_1T))[0, len(prompt) :]


@contextmanager
def _in_float32(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """Let each layer's weights stand in float32 while it runs, so that only one takes twice its room."""
    dtypes = {weight: weight.dtype for weight in model.parameters()}

    def widen(layer: nn.Module, _: Any) -> None:
        for weight in layer.parameters(recurse=False):
            weight.data = weight.data.float()

    def narrow(layer: nn.Module, *_: Any) -> None:
        for weight in layer.parameters(recurse=False):
            weight.data = weight.data.to(dtypes[weight])

    handles = []
    for layer in model.modules():
        handles += [layer.register_forward_pre_hook(widen), layer.register_forward_hook(narrow)]
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()
        for layer in model.modules():
            narrow(layer)


def choose_attention(model: PreTrainedModel, probe: Probe, name: str) -> float:
    """Let the model attend over slots where that gives the probe's log-probs, else over assembled keys and values.

    Returns:
        The mean difference that is left, in nats a token.

    Raises:
        ModelError: the log-probs are no numbers.
        EngineError: neither way gives the log-probs of the plain forward pass.
    """
    if not bool(torch.isfinite(probe.logprobs_T).all()):
        raise ModelError(f"log-probs of {name} are not finite; the weights may hold NaN, or overflow in this dtype")
    limit = probe.limit
    own = model.config._attn_implementation
    if _is_plain(model.config.get_text_config()):
        model.set_attn_implementation(ATTENTION)
        try:
            difference = probe_difference(model, probe)
            if difference <= limit:
                return difference
        except torch.OutOfMemoryError:
            raise
        except MISFITS:  # its layers ask for more than slots have, or hand nothing down to attention
            pass
        model.set_attn_implementation(own)
    try:
        difference = probe_difference(model, probe)
    except torch.OutOfMemoryError:
        raise
    except MISFITS as error:
        raise EngineError(
            f"model type {model.config.model_type!r} cannot be sampled from by the 'transformers' engine: its layers "
            f"do not take the engine's cache and masks ({' '.join(str(error).split())[:200] or type(error).__name__}) "
            f"- {name}, probed at start - use 'vllm', or serve the model and use the 'openai' engine"
        ) from error
    if not difference <= limit:
        raise EngineError(
            f"the engine's log-probs differ from a plain forward pass by {difference:.2g} nats a token on average "
            f"(limit {limit:.2g}) - {name}, probed at start - its samples would not be this model's; "
            f"{'' if model.dtype == torch.float32 else 'set dtype float32, or '}use another engine ('vllm', or "
            "'openai' with a server)"
        )
    return difference


@torch.inference_mode()
def probe_difference(model: PreTrainedModel, probe: Probe) -> float:
    """Give the mean difference, in nats a token, between decoding the probe step by step and its plain forward pass."""
    drawn: list[Tensor] = []

    def forced(logits_NV: Tensor, _: np.ndarray, __: SamplingParams) -> Tensor:
        token = probe.completion[len(drawn)]
        drawn.append(torch.log_softmax(logits_NV[0].float(), dim=-1)[token])
        return torch.full((len(logits_NV),), token, device=logits_NV.device)

    params = SamplingParams(1.0, 1.0, 0, len(probe.completion), stop_ids=())
    batch = RunningBatch(model, params, num_slots=2, num_prompts=1, longest_prompt=len(probe.prompt), draw=forced)
    batch.admit([Request("probe", tuple(probe.prompt), (), seeds=(0, 1), sample_indices=(0, 1))])
    while batch.num_active:
        batch.step()
    return float((torch.stack(drawn) - probe.logprobs_T).abs().mean())


def _is_plain(config: PretrainedConfig) -> bool:
    """Tell whether every layer sees all tokens before, with nothing done to the logits of its attention."""
    kinds = getattr(config, "layer_types", None)
    windowed = getattr(config, "sliding_window", None) is not None if kinds is None else "sliding_attention" in kinds
    return not windowed and getattr(config, "attn_logit_softcapping", None) is None

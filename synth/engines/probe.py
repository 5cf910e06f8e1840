"""The start-up check: the engine's own log-probs of a fixed text against those of a plain forward pass.

Shapes: N rows, V vocabulary, T tokens.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from posttrain.core.batching import token_logprobs
from posttrain.core.chat import encode_prompt
from posttrain.core.errors import ModelError
from synth.engines.base import EngineError, Request, SamplingParams
from synth.engines.running import RunningBatch
from synth.engines.step import ATTENTION

_KNOWN_LAYERS = {"full_attention", "sliding_attention"}
_PROBE = [{"role": "user", "content": "Name three primary colours, then say which of them you like best, and why."}]
_ANSWER = "Red, yellow and blue. I like blue best: it is the colour of the sea on a clear day, and of a good sky."
# Tokens of the answer that are compared; one more than a span of the cache's columns would not tell more.
_MOST_TOKENS = 40
# Mean difference in nats above which the engine does not run the model that a plain forward pass runs.
_TOLERANCE = {torch.float32: 1e-3}
_LOW_PRECISION_TOLERANCE = 0.05


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


def choose_attention(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Let the model attend over slots where that gives its own log-probs, else over assembled keys and values.

    Raises:
        EngineError: neither way gives the log-probs of a plain forward pass.
    """
    own = model.config._attn_implementation
    if _is_plain(model.config.get_text_config()):
        model.set_attn_implementation(ATTENTION)
        try:
            if probe_difference(model, tokenizer) <= tolerance(model.dtype):
                return
        except ModelError:  # its layers ask for more than slots have
            pass
        model.set_attn_implementation(own)
    difference = probe_difference(model, tokenizer)
    if math.isnan(difference):
        raise ModelError(f"log-probs of {name} are not finite; the weights may hold NaN, or overflow in this dtype")
    if not difference <= tolerance(model.dtype):
        raise EngineError(
            f"the engine's log-probs differ from a plain forward pass by {difference:.2g} nats a token on average "
            f"(limit {tolerance(model.dtype):g}) - {name}, probed at start - its samples would not be this model's; "
            "use another engine ('vllm', or 'openai' with a server)"
        )


def tolerance(dtype: torch.dtype) -> float:
    """Give the mean difference of log-probs, in nats, that rounding may explain."""
    return _TOLERANCE.get(dtype, _LOW_PRECISION_TOLERANCE)


@torch.inference_mode()
def probe_difference(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> float:
    """Give the mean difference, in nats a token, between decoding a text step by step and one plain forward pass."""
    prompt = encode_prompt(tokenizer, _PROBE, date="1 Jan 2025")
    answer = tokenizer(_ANSWER, add_special_tokens=False)["input_ids"][:_MOST_TOKENS]
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if room is not None:  # a tiny context still has to hold the probe
        prompt = prompt[: max(1, room // 2)]
        answer = answer[: max(1, room - len(prompt))]
    ids_1T = torch.tensor([prompt + answer], device=model.device)
    plain_T = token_logprobs(model, ids_1T, torch.ones_like(ids_1T))[0, len(prompt) :]
    return float((decoded_logprobs(model, prompt, answer) - plain_T).abs().mean())


def decoded_logprobs(model: PreTrainedModel, prompt: list[int], answer: list[int]) -> Tensor:
    """Give the log-probs with which the running batch would draw the tokens of `answer`, logprobs_T in float32."""
    drawn: list[Tensor] = []

    def forced(logits_NV: Tensor, _: np.ndarray, __: SamplingParams) -> Tensor:
        token = answer[len(drawn)]
        drawn.append(torch.log_softmax(logits_NV[0].float(), dim=-1)[token])
        return torch.full((len(logits_NV),), token, device=logits_NV.device)

    params = SamplingParams(1.0, 1.0, 0, len(answer), stop_ids=())
    batch = RunningBatch(model, params, num_slots=2, num_prompts=1, longest_prompt=len(prompt), draw=forced)
    batch.admit([Request("probe", tuple(prompt), (), seeds=(0, 1), sample_indices=(0, 1))])
    while batch.num_active:
        batch.step()
    return torch.stack(drawn)


def _is_plain(config: PretrainedConfig) -> bool:
    """Tell whether every layer sees all tokens before, with nothing done to the logits of its attention."""
    kinds = getattr(config, "layer_types", None)
    windowed = getattr(config, "sliding_window", None) is not None if kinds is None else "sliding_attention" in kinds
    return not windowed and getattr(config, "attn_logit_softcapping", None) is None

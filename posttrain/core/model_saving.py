"""Saving models, refusing what transformers would let pass: weights that are empty, NaN or infinite."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from posttrain.core.atomic import PathLike
from posttrain.core.chat import all_stop_ids
from posttrain.core.errors import ModelError
from posttrain.core.noise_off import configs_of, original_noise
from posttrain.core.older_readers import write_for_older_readers


def save_model(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, out_dir: PathLike) -> None:
    """Save a folder that any tool can load: safetensors, tokenizer, chat template, and stop tokens for generation.

    Readers of transformers 4 get what they look for, too.

    `generation_config.json` lists the end-of-turn token among `eos_token_id`, so that other engines stop there too.

    Raises:
        ModelError: a weight is empty, NaN or infinite; nothing is written.
    """
    for name, weight in model.named_parameters():
        if weight.numel() == 0 or not bool(torch.isfinite(weight).all()):
            raise ModelError(f"the weight {name} is empty, NaN or infinite, so the model is not saved to {out_dir}")
    # TRL's trainers put a patched `forward` on the instance and switch the cache off in the configuration.
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    inner.__dict__.pop("forward", None)
    inner.config.use_cache = True
    if inner.can_generate():
        inner.generation_config = _generation_config(inner.generation_config, tokenizer)
    with original_noise(inner):
        model.save_pretrained(str(out_dir))
    tokenizer.save_pretrained(str(out_dir))
    write_for_older_readers(out_dir)


@contextmanager
def unchanged_config(model: Any) -> Iterator[None]:
    """Take off again what trainers write on a model's configuration: router logits, special tokens, the cache."""
    kept = [(config, dict(vars(config))) for _, config in configs_of(model.config)]
    try:
        yield
    finally:
        for config, values in kept:
            vars(config).clear()
            vars(config).update(values)


def check_can_save(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Save all of a model but its weights to a folder that is thrown away, before hours of training.

    Raises:
        ModelError: the configuration, the generation settings or the tokenizer cannot be saved, or an adapter stands on
            an embedding that shares its weight with the output head, so that a merge would change both.
    """
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    ends = [inner.get_input_embeddings(), inner.get_output_embeddings()] if inner.can_generate() else []
    is_tied = len(ends) == 2 and None not in ends and ends[0].weight is ends[1].weight
    if is_tied and any(isinstance(end, BaseTunerLayer) for end in ends):
        raise ModelError(
            "an adapter stands on an embedding that is tied to the output head, so it cannot be merged; leave "
            "embed_tokens and lm_head out of lora.target_modules"
        )
    try:
        with tempfile.TemporaryDirectory() as folder:
            if inner.can_generate():
                _generation_config(deepcopy(inner.generation_config), tokenizer).save_pretrained(folder)
            inner.config.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(
            f"the trained model could not be saved, so training does not start: {' '.join(str(error).split())}. "
            "Correct generation_config.json or config.json of the model's folder"
        ) from error


def _generation_config(given: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    config = given or GenerationConfig()
    config.eos_token_id = all_stop_ids(tokenizer, config.eos_token_id)
    config.pad_token_id = tokenizer.pad_token_id
    if not config.do_sample and any(value is not None for value in (config.temperature, config.top_p, config.top_k)):
        # Sampling numbers without sampling: transformers refuses to save that, at the end of the training run.
        config.do_sample = True
    return config

"""Loading models, refusing what transformers would let pass: weights missing, heads made up, adapters of others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from posttrain.core.atomic import PathLike
from posttrain.core.chat import load_tokenizer
from posttrain.core.errors import MISFITS, ModelError
from posttrain.core.model_files import (
    adapter_base,
    check_adapter_base,
    check_model_dir,
    is_adapter,
    model_hash,
    resolve,
    weight_files,
)
from posttrain.core.model_saving import save_model
from posttrain.core.noise_off import switch_noise_off
from posttrain.core.packed_linear import pack_linears
from posttrain.core.pooling import give_own_pad
from posttrain.core.row_angles import separate_rows

__all__ = [
    "check_model_dir",
    "check_unquantized",
    "init_reward_model",
    "load_adapted",
    "load_causal_lm",
    "load_config",
    "load_reward_model",
    "merge_adapter",
    "model_hash",
    "resolve",
    "reward_tokenizer",
    "save_model",
]

_HEAD = "score.weight"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Largest difference of logits between an adapter and its merged model, as a share of the largest logit (at least 1).
_MERGE_TOLERANCE = 1e-4


def load_causal_lm(
    model_dir: PathLike, dtype: str = "float32", device: str = "cpu", quantization: Any = None
) -> PreTrainedModel:
    """Load a language model for sampling, scoring or further training: eval mode, no dropout of its own.

    An adapter is merged into its base in float32 before the cast, so that what comes back is always a plain model.

    Args:
        dtype: float32, bfloat16 or float16.
        quantization: transformers' settings for weights of fewer bits, for adapters that are trained above them.

    Raises:
        ModelError: weights missing, of other shapes, or no safetensors; an adapter whose base has changed.
    """
    return _load(AutoModelForCausalLM, model_dir, dtype, device, quantization=quantization)


def load_reward_model(model_dir: PathLike, dtype: str = "float32", device: str = "cpu") -> PreTrainedModel:
    """Load a reward model: one score per sequence from a head that computes in float32 whatever the body's dtype.

    It is for scoring; nothing can be learned through its packed layers (`init_reward_model` loads one to train).

    Raises:
        ModelError: the file lacks the score head (a made-up one would give scores without meaning), other weights are
            missing, there is more than one score, or the configuration names no padding token.
    """
    config = load_config(model_dir)
    if not is_adapter(model_dir) and config.num_labels != 1:
        raise ModelError(
            f"{model_dir} gives {config.num_labels} numbers per sequence; a reward model gives 1. Its class is "
            f"{', '.join(config.architectures or ['unknown'])}; give what `posttrain train reward-model` made"
        )
    model = _load(AutoModelForSequenceClassification, model_dir, dtype, device)
    if is_adapter(model_dir):  # its base's configuration is that of another task
        _set_pad(model, reward_tokenizer(model_dir)[1])
    _require_pad_token(model, model_dir)
    model = _with_float32_head(model, model_dir)
    pack_linears(model)
    return model


def init_reward_model(
    model_dir: PathLike, seed: int, dtype: str = "float32", device: str = "cpu", quantization: Any = None
) -> PreTrainedModel:
    """Make a reward model of a language model: its body, and a new score head drawn from `seed`.

    A folder that holds a reward model keeps its head. The head is N(0, initializer_range²), as transformers draws it,
    and in float32; the global random state is left as it was.

    Raises:
        ModelError: any other weight is missing, or the tokenizer cannot be loaded (it names the padding token).
    """
    _, pad_id = reward_tokenizer(model_dir)
    with torch.random.fork_rng(devices=[]):
        model = _load(AutoModelForSequenceClassification, model_dir, dtype, device, {_HEAD}, quantization)
    _set_pad(model, pad_id)
    model = _with_float32_head(model, model_dir)
    if _stored_head(model_dir) is None:
        generator = torch.Generator().manual_seed(seed)
        deviation = float(getattr(model.config.get_text_config(), "initializer_range", 0.02))
        with torch.no_grad():
            weight = _head(model).weight
            weight.copy_(torch.empty(weight.shape).normal_(0.0, deviation, generator=generator))
    return model


def reward_tokenizer(model_dir: PathLike) -> tuple[PreTrainedTokenizerBase, int]:
    """Load the tokenizer of a folder as a reward model needs it, and say which token its class takes for padding.

    A language model gets a padding token that ends no row; a reward model keeps what its configuration names, or,
    where adapters were trained above a language model, what its tokenizer names.

    Raises:
        ModelError: the tokenizer cannot be loaded, or has no token to pad with.
    """
    tokenizer = load_tokenizer(model_dir)
    if _stored_head(model_dir) is not None:
        config = load_config(model_dir)
        above = is_adapter(model_dir) and not any("SequenceClass" in name for name in config.architectures or ())
        pad_id = tokenizer.pad_token_id if above else config.get_text_config().pad_token_id
        if pad_id is not None:
            return tokenizer, pad_id
    give_own_pad(tokenizer, model_dir)
    return tokenizer, tokenizer.pad_token_id


def merge_adapter(adapter_dir: PathLike, out_dir: PathLike) -> float:
    """Merge an adapter into its base in float32, save the whole model, and check the saved one against the adapter.

    Returns:
        The largest difference of a logit between base + adapter and the model read back from `out_dir`.

    Raises:
        ModelError: no adapter, adapter weights missing or unknown, a quantised base, or too large a difference.
    """
    if not is_adapter(adapter_dir):
        raise ModelError(f"{adapter_dir} holds no adapter_config.json, so there is nothing to merge")
    adapted = _load_adapted(AutoModelForCausalLM, adapter_dir, may_lack=())
    probe = torch.randint(adapted.config.vocab_size, (4, 16), generator=torch.Generator().manual_seed(0))
    wanted = _logits(adapted, probe, adapter_dir)
    save_model(_merged(adapted, adapter_dir), load_tokenizer(adapter_dir), out_dir)
    got = _logits(load_causal_lm(out_dir), probe, out_dir)
    delta = float((got - wanted).abs().max())
    allowed = _MERGE_TOLERANCE * max(1.0, float(wanted.abs().max()))
    if not delta <= allowed:
        raise ModelError(f"the merged model in {out_dir} differs from the adapter by {delta:.2g} (limit {allowed:.2g})")
    return delta


# ---------------------------------------------------------------- loading


def load_adapted(adapter_dir: PathLike, reward_model: bool = False) -> PeftModel:
    """Load an adapter above its base, both in float32 and not merged: what a merge is measured against.

    The base is read from its folder, so an adapter trained above 4-bit weights meets the weights they came from.

    Args:
        reward_model: load a score head in place of an output head.

    Raises:
        ModelError: a base that has changed or is quantised, adapter weights missing or unknown.
    """
    return _load_adapted(AutoModelForSequenceClassification if reward_model else AutoModelForCausalLM, adapter_dir, ())


def _load(
    loader: Any,
    model_dir: PathLike,
    dtype: str,
    device: str,
    may_lack: Collection[str] = (),
    quantization: Any = None,
) -> PreTrainedModel:
    if dtype not in _DTYPES:
        raise ModelError(f"unknown dtype {dtype!r}; use one of {', '.join(_DTYPES)}")
    if quantization is not None:
        if is_adapter(model_dir):
            raise ModelError(f"{model_dir} is an adapter and cannot be read into 4 bits; merge it into its base first")
        placed = {"quantization_config": quantization, "device_map": {"": device}}
        return _load_whole(loader, model_dir, _DTYPES[dtype], may_lack, placed).eval()
    if is_adapter(model_dir):
        model = _merged(_load_adapted(loader, model_dir, may_lack), model_dir).to(_DTYPES[dtype])
    else:
        model = _load_whole(loader, model_dir, _DTYPES[dtype], may_lack)
    return model.to(device).eval()


def load_config(model_dir: PathLike) -> Any:
    """Load a model's configuration, that of the base where the folder is an adapter.

    Raises:
        ModelError: it is missing, of an unknown architecture, or contradicts itself.
    """
    try:
        folder = adapter_base(model_dir) if is_adapter(model_dir) else model_dir
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        told = " ".join(str(error).split())
        raise ModelError(f"no model configuration can be loaded from {model_dir}: {told}") from error
    return config


def _load_whole(
    loader: Any,
    model_dir: PathLike,
    dtype: torch.dtype,
    may_lack: Collection[str],
    placed: Mapping[str, Any] = MappingProxyType({}),
) -> PreTrainedModel:
    config = load_config(model_dir)
    if loader is AutoModelForSequenceClassification:
        config.num_labels = 1
    try:
        model, info = loader.from_pretrained(
            str(model_dir),
            config=config,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **placed,
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        if "Unrecognized configuration class" in str(error):
            kind = "reward model" if loader is AutoModelForSequenceClassification else "language model"
            raise ModelError(
                f"{model_dir}: transformers has no {kind} of model type {config.model_type!r}; take a model of another "
                "architecture"
            ) from error
        raise ModelError(f"no model can be loaded from {model_dir}: {error}") from error
    if loader is AutoModelForCausalLM and _HEAD in info["unexpected_keys"]:
        # With tied embeddings nothing is missing, and it would speak.
        raise ModelError(f"{model_dir} holds a reward model ({_HEAD}), not a language model; give a policy's folder")
    missing = sorted(set(info["missing_keys"]) - set(may_lack))
    if missing or info["mismatched_keys"]:
        # transformers fills such weights with random numbers and prints a table.
        wrong = [*missing, *(str(key) for key in info["mismatched_keys"])]
        raise ModelError(
            f"{model_dir} lacks {len(wrong)} weights of a {type(model).__name__}: {', '.join(wrong[:5])}; "
            "give the folder that was trained for this"
        )
    switch_noise_off(model)
    separate_rows(model)
    return model


def _load_adapted(loader: Any, adapter_dir: PathLike, may_lack: Collection[str]) -> PeftModel:
    base_dir = adapter_base(adapter_dir)
    check_adapter_base(adapter_dir)
    try:
        stored = load_file(Path(adapter_dir, "adapter_model.safetensors"))
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{adapter_dir}: adapter_model.safetensors cannot be read ({error}); save the adapters again as safetensors"
        ) from error
    base_may_lack = {*may_lack, *(_HEAD for key in stored if key.endswith(_HEAD))}
    base: Any
    if is_adapter(base_dir):  # an adapter on an adapter: transformers would leave the lower one out of the merge
        base = _merged(_load_adapted(loader, base_dir, base_may_lack), base_dir)
        base.__dict__.pop("peft_config", None)
    else:
        check_unquantized(base_dir)
        base = _load_whole(loader, base_dir, torch.float32, base_may_lack)
    try:
        config = PeftConfig.from_pretrained(str(adapter_dir))
        # The task's own wrapper would refuse the adapter of a language model on the body of a reward model.
        config.task_type = None
        model = PeftModel.from_pretrained(base, str(adapter_dir), config=config)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise ModelError(
            f"{adapter_dir} cannot be put above its base {base_dir}: {' '.join(str(error).split())[:500]}. Name the "
            "base it was trained above, with its vocabulary, or merge it with the tool that made it"
        ) from error
    # Some tools store embeddings and heads beside the adapters; peft puts them in the place of the base's.
    asked, whole = set(get_peft_model_state_dict(model)), model.state_dict()
    replaced = {key for key in stored.keys() - asked if key in whole and stored[key].to(whole[key]).equal(whole[key])}
    wrong = sorted(asked ^ (stored.keys() - replaced))
    if wrong:
        raise ModelError(
            f"{adapter_dir}: {len(wrong)} adapter weights missing or unknown: {', '.join(wrong[:5])}. Save the "
            "adapters again, or merge them with the tool that made them and give the merged folder"
        )
    return model.eval()


def check_unquantized(model_dir: PathLike) -> None:
    """Refuse a folder, or an adapter's base, whose configuration says that its weights are quantised.

    Such weights cannot be trained, nor can an adapter be merged into them.

    Raises:
        ModelError: names the kind of quantisation.
    """
    folder = Path(model_dir)
    while is_adapter(folder):
        folder = adapter_base(folder)
    config = load_config(folder)
    for part in (config, config.get_text_config()):
        for name in ("quantization_config", "compression_config"):
            settings = getattr(part, name, None)
            if settings is not None:
                kind = settings.get("quant_method") if isinstance(settings, dict) else settings.quant_method
                raise ModelError(
                    f"{folder}: the weights are quantised ({name} of config.json: {kind}) and cannot be trained or "
                    "merged into; give the unquantised weights, and use lora.load_in_4bit to save memory"
                )


@torch.no_grad()
def _merged(adapted: PeftModel, adapter_dir: PathLike) -> Any:
    """Merge an adapter, and refuse a merge that computes something else: a tied weight takes part in two layers."""
    ids = torch.randint(
        adapted.config.get_text_config().vocab_size, (1, 16), generator=torch.Generator().manual_seed(0)
    )
    wanted = _logits(adapted, ids, adapter_dir)
    try:
        model: Any = adapted.merge_and_unload()
    except MISFITS as error:
        kind = adapted.active_peft_config.peft_type.value
        raise ModelError(
            f"{adapter_dir} holds adapters of a kind that cannot be merged into a plain model ({kind}): {error}. Train "
            "LoRA adapters or a whole model"
        ) from error
    delta = float((_logits(model, ids, adapter_dir) - wanted).abs().max())
    allowed = _MERGE_TOLERANCE * max(1.0, float(wanted.abs().max()))
    if not delta <= allowed:
        raise ModelError(
            f"{adapter_dir}: merged into its base it differs by {delta:.2g} (limit {allowed:.2g}), as where adapters "
            "stand on an embedding that is tied to the output head, or on layers that are used twice; untie them in "
            "the base, or train other layers"
        )
    return model


@torch.no_grad()
def _logits(model: Any, ids: Tensor, model_dir: PathLike) -> Tensor:
    try:
        return model(input_ids=ids, use_cache=False).logits  # type: ignore[no-any-return]
    except torch.OutOfMemoryError:
        raise
    except MISFITS as error:
        raise ModelError(
            f"the model of {model_dir} with its adapters cannot be run on token ids alone: {error}. Merge it with "
            "the tool that made it"
        ) from error


# ---------------------------------------------------------------- the score head


def _head(model: PreTrainedModel) -> torch.nn.Linear:
    head = getattr(model, "score", None)
    if not isinstance(head, torch.nn.Linear):
        raise ModelError(f"{type(model).__name__} has no linear head named 'score'; this architecture is not supported")
    return head


def _with_float32_head(model: PreTrainedModel, model_dir: PathLike) -> PreTrainedModel:
    """Let the head compute in float32: in bfloat16 the scores of like answers fall on the same few numbers."""
    head = _head(model).float()
    stored = _stored_head(model_dir)
    if stored is not None:  # the cast to the body's dtype has rounded it
        with torch.no_grad():
            head.weight.copy_(stored)
    head.register_forward_pre_hook(lambda _module, inputs: (inputs[0].float(), *inputs[1:]))
    return model


def _stored_head(model_dir: PathLike) -> Tensor | None:
    adapter = Path(model_dir, "adapter_model.safetensors")
    for path in [adapter] if is_adapter(model_dir) else weight_files(model_dir):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - the handle is no mapping
                if key == _HEAD or key.endswith(f".{_HEAD}"):
                    return file.get_tensor(key)
    return None


def _set_pad(model: PreTrainedModel, pad_id: int | None) -> None:
    model.config.get_text_config().pad_token_id = pad_id
    model.config.pad_token_id = pad_id


def _require_pad_token(model: PreTrainedModel, model_dir: PathLike) -> None:
    if model.config.get_text_config().pad_token_id is None:
        raise ModelError(f"{model_dir}: config.json names no pad_token_id, so batches cannot be scored; add it")

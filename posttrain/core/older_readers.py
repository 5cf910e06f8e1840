"""What readers of transformers 4 need in a saved folder, beside what transformers 5 writes.

transformers 5 keeps all of rotary positions in `rope_parameters`, which older readers (transformers 4, and engines and
converters built on it) pass over for their defaults, and names tokenizer classes and lists that they do not know.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from posttrain.core.atomic import PathLike, atomic_write

Change = Callable[[Mapping[str, Any]], dict[str, Any]]
Reading = Callable[[], dict[str, Any]]
# Names of transformers 4 where they are not rope_theta, partial_rotary_factor.
_OWN_NAMES = {"gpt_neox": ("rotary_emb_base", "rotary_pct"), "gpt_neox_japanese": ("rotary_emb_base", "rotary_pct")}
_PROBES = (
    "Hello, world! It's 12345 x 67.",
    "  two  spaces\n\n\tand lines\r\n",
    "naïve café — 日本語 русский 🙂",
    "def f(x):\n    return x**2",
)


def write_for_older_readers(folder: PathLike) -> None:
    """Add to config.json and tokenizer_config.json what transformers 4 reads; the weights are not touched.

    What transformers 5 reads must stay the same: it is read again, and a file that would then mean another thing is put
    back as it was.
    """
    config = Path(folder, "config.json")
    if config.is_file():
        _rewrite(config, _older_config, lambda: AutoConfig.from_pretrained(str(folder)).to_dict())
    tokenizer = Path(folder, "tokenizer_config.json")
    if tokenizer.is_file() and Path(folder, "tokenizer.json").is_file():
        _rewrite(tokenizer, _older_tokenizer, lambda: _readings(AutoTokenizer.from_pretrained(str(folder))))


def _rewrite(path: Path, older: Change, reading: Reading) -> None:
    before = path.read_text("utf-8")
    content = json.loads(before)
    changed = older(content)
    if changed == content:
        return
    wanted = reading()
    atomic_write(path, json.dumps(changed, indent=2, ensure_ascii=False) + "\n")
    found = reading()
    if {key: found.get(key) for key in wanted} != wanted:
        atomic_write(path, before)


def _readings(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    return {
        "tokens": [tokenizer.tokenize(text) for text in _PROBES],
        "named": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "special": sorted(map(str, tokenizer.all_special_tokens)),
        "template": tokenizer.chat_template,
    }


def _older_config(config: Mapping[str, Any]) -> dict[str, Any]:
    older = dict(config)
    for key, value in config.items():
        if key.endswith("_config") and isinstance(value, Mapping):
            older[key] = _older_config(value)
    if isinstance(config.get("dtype"), str):
        older["torch_dtype"] = config["dtype"]
    rope = config.get("rope_parameters")
    if not isinstance(rope, Mapping):
        return older
    local = rope.get("sliding_attention")
    if isinstance(rope.get("full_attention"), Mapping):  # angles by the kind of layer
        rope = rope["full_attention"]
        if isinstance(local, Mapping) and local.get("rope_theta") != rope.get("rope_theta"):
            older["rope_local_base_freq"] = local.get("rope_theta")
    theta, share = _OWN_NAMES.get(str(config.get("model_type")), ("rope_theta", "partial_rotary_factor"))
    if rope.get("rope_theta") is not None:
        older[theta] = rope["rope_theta"]
    if rope.get("partial_rotary_factor") is not None:
        older[share] = rope["partial_rotary_factor"]
    if rope.get("rope_type", "default") != "default":
        scaling = {key: value for key, value in rope.items() if key not in ("rope_theta", "partial_rotary_factor")}
        older["rope_scaling"] = scaling
    return older


def _older_tokenizer(config: Mapping[str, Any]) -> dict[str, Any]:
    older = dict(config)
    if config.get("tokenizer_class") == "TokenizersBackend":
        older["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):
        older["additional_special_tokens"] = older.pop("extra_special_tokens")
    return older

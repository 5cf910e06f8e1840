"""Tokenizers, models and rows that cases are made of: tiny, random, the same each time."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

_TEXT = (
    "the quick brown fox jumps over the lazy dog . name a river . the elbe ends in the north sea . red green blue cat "
    "bird fish tree house list sort add larger first last word"
)
WORDS = _TEXT.split()
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_bpe(vocabulary: int = 400, template: str = CHATML, specials: tuple[str, ...] = (), **named: str):
    """Make a byte-level BPE tokenizer with ChatML's marks; pad is token 0, the end of a turn token 2."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", *specials],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    draw = random.Random(0)
    tokenizer.train_from_iterator([" ".join(draw.choices(WORDS, k=20)) for _ in range(400)], trainer)
    named = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", **named}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)
    fast.chat_template = template
    return fast


def llama(folder: Path, tokenizer, seed: int = 0, head: str = "CausalLM", **changes: Any) -> Path:
    """Save a random two-layer Llama of this tokenizer; `head` is CausalLM or SequenceClassification."""
    import torch
    import transformers

    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": None,
        "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    if head == "SequenceClassification":
        settings["num_labels"] = 1
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(**{**settings, **changes})
    getattr(transformers, f"LlamaFor{head}")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def user(text: str) -> list[dict[str, str]]:
    """Make a prompt of one message."""
    return [{"role": "user", "content": text}]


def assistant(text: str, **more: Any) -> list[dict[str, Any]]:
    """Make a completion of one message."""
    return [{"role": "assistant", "content": text, **more}]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write JSON Lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read JSON Lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]

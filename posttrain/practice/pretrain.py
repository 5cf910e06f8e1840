"""Pretrain a tiny model on the text of the practice world, in under a minute on two cores."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from posttrain.practice.corpus import Mix, documents
from posttrain.practice.tokenizer import MODEL_MAX_LENGTH, build_tokenizer

# B rows, T tokens, V words
IGNORED = -100
#: batches whose texts are sorted by length together; few enough that each batch still holds many kinds of task
BATCHES_PER_POOL = 16
LOG_EVERY = 20


@dataclass(frozen=True)
class PracticeModelConfig:
    """Say how large a practice model is, how long it learns and from which mix of text.

    Attributes:
        intermediate_size: width of the feed-forward layers.
        batch_tokens: tokens of an optimizer step, padding included.
        learning_rate: at its peak; warmed up over `warmup_steps`, then falling linearly to zero.
        wrong_share, wanted_share, mark_share, self_instruct_share: see `corpus.Mix`.
    """

    hidden_size: int = 128
    intermediate_size: int = 256
    num_layers: int = 4
    num_heads: int = 4
    steps: int = 600
    batch_tokens: int = 2048
    learning_rate: float = 3e-3
    warmup_steps: int = 50
    weight_decay: float = 0.01
    seed: int = 0
    wrong_share: float = 0.4
    wanted_share: float = 0.2
    mark_share: float = 0.7
    self_instruct_share: float = 0.05

    def mix(self) -> Mix:
        """Give the shares of the text."""
        return Mix(self.wrong_share, self.wanted_share, self.mark_share, self.self_instruct_share)


Progress = Callable[[int, int, float], None]


def pretrain(out_dir: str | Path, config: PracticeModelConfig, progress: Progress | None = None) -> dict[str, float]:
    """Train a model from random weights and save it as a Hugging Face folder with `metrics.jsonl`.

    The loss covers every token, the user's words too, so that the model can also write prompts.

    Args:
        progress: called as (step, steps, loss) every few steps.

    Returns:
        The last loss (nats per token), tokens seen, tokens per second and seconds.
    """
    torch.manual_seed(config.seed)
    tokenizer = build_tokenizer()
    model = _new_model(config, tokenizer).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, config))
    metrics: list[dict[str, float]] = []
    tokens, start = 0, time.monotonic()
    for step, ids_BT in enumerate(_batches(config, int(tokenizer.pad_token_id)), start=1):
        loss = _next_token_loss(model, ids_BT, int(tokenizer.pad_token_id))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        tokens += ids_BT.numel()
        if step % LOG_EVERY == 0 or step == config.steps:
            seconds = time.monotonic() - start
            metrics.append({"step": step, "loss": loss.item(), "tokens": tokens, "seconds": seconds})
            if progress is not None:
                progress(step, config.steps, metrics[-1]["loss"])
    _save(Path(out_dir), model, tokenizer, metrics)
    return {key: metrics[-1][key] for key in ("loss", "tokens", "seconds")} | {
        "tokens_per_second": tokens / metrics[-1]["seconds"]
    }


def _new_model(config: PracticeModelConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_heads,
            max_position_embeddings=MODEL_MAX_LENGTH,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            attn_implementation="sdpa",
        )
    )


def _rate(step: int, config: PracticeModelConfig) -> float:
    """Give the learning rate of a step as a share of its peak."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    return (config.steps - step) / max(1, config.steps - config.warmup_steps)


def _batches(config: PracticeModelConfig, pad_id: int):  # type: ignore[no-untyped-def]
    """Yield `steps` tensors ids_BT of texts of about one length, so that little is padding."""
    order = random.Random(f"batches {config.seed}")
    yielded, pool_number = 0, 0
    while yielded < config.steps:
        pool = documents(
            BATCHES_PER_POOL * config.batch_tokens // 20, config.seed * 100_003 + pool_number, config.mix()
        )
        pool_number += 1
        batches = _cut(sorted(pool, key=len), config.batch_tokens)
        order.shuffle(batches)
        for rows in batches[: config.steps - yielded]:
            longest = max(map(len, rows))
            yield torch.tensor([row + [pad_id] * (longest - len(row)) for row in rows])
            yielded += 1


def _cut(rows: list[list[int]], batch_tokens: int) -> list[list[list[int]]]:
    batches: list[list[list[int]]] = [[]]
    for row in rows:  # shortest first, so the newest row is the longest of its batch
        if batches[-1] and (len(batches[-1]) + 1) * len(row) > batch_tokens:
            batches.append([])
        batches[-1].append(row)
    return batches


def _next_token_loss(model: LlamaForCausalLM, ids_BT: torch.Tensor, pad_id: int) -> torch.Tensor:
    # padding stands on the right, where causal attention cannot see it: no attention mask is needed
    logits_BTV = model(input_ids=ids_BT, use_cache=False).logits[:, :-1]
    labels_BT = ids_BT[:, 1:].masked_fill(ids_BT[:, 1:] == pad_id, IGNORED)
    return torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), labels_BT.flatten(), ignore_index=IGNORED)


def _save(
    out: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, metrics: list[dict[str, float]]
) -> None:
    model.eval()
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    lines = "".join(json.dumps(row) + "\n" for row in metrics)
    (out / "metrics.jsonl").write_text(lines, encoding="utf-8")

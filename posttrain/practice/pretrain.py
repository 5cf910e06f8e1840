"""Pretrain a tiny model on the text of the practice world, in under a minute on two cores."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from posttrain.config import PracticeModel
from posttrain.core.older_readers import write_for_older_readers
from posttrain.practice.corpus import Mix, Text, documents
from posttrain.practice.tokenizer import MODEL_MAX_LENGTH, build_tokenizer

# B rows, T tokens, V words

#: batches whose texts are sorted by length together; few enough that each batch still holds many kinds of task
BATCHES_PER_POOL = 16
#: texts are at least this long on average, in tokens; says how many to write for a pool
TOKENS_PER_TEXT = 20
LOG_EVERY = 20
#: a narrow model with tied embeddings starts slowly from the usual 0.02
INITIALIZER_RANGE = 0.06
WARMUP_SHARE = 0.05
WEIGHT_DECAY = 0.01


Progress = Callable[[int, int, float], None]


def pretrain(out_dir: str | Path, config: PracticeModel, progress: Progress | None = None) -> dict[str, float]:
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
    optimizers = _optimizers(model, config)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, config.steps)) for optimizer in optimizers
    ]
    metrics: list[dict[str, float]] = []
    tokens, start = 0, time.monotonic()
    for step, (ids_BT, weights_BT) in enumerate(_batches(config, int(tokenizer.pad_token_id)), start=1):
        loss = _next_token_loss(model, ids_BT, weights_BT)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
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
    last = metrics[-1]
    return {**{key: last[key] for key in ("loss", "tokens", "seconds")}, "tokens_per_second": tokens / last["seconds"]}


def _habits_mix(config: PracticeModel) -> Mix:
    """Give the shares of the text from which the model gets its habits."""
    return Mix(
        wrong_share=config.wrong_share,
        wanted_share=config.wanted_share,
        mark_share=config.mark_share,
        self_instruct_share=config.self_instruct_share,
    )


def _textbook_mix(config: PracticeModel) -> Mix:
    """Give the shares of the text from which the model gets its skills."""
    return Mix(
        wrong_share=0.1,
        wanted_share=0.2,
        bare_share=0.6,
        mark_share=config.mark_share,
        self_instruct_share=config.self_instruct_share,
        imitate_wrong=False,
    )


def _optimizers(model: LlamaForCausalLM, config: PracticeModel) -> list[torch.optim.Optimizer]:
    """Give Muon for the matrices inside the blocks, which halves the steps needed, and AdamW for all else."""
    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    taken = set(map(id, matrices))
    others = [weight for weight in model.parameters() if id(weight) not in taken]
    return [
        torch.optim.Muon(matrices, lr=config.matrix_learning_rate, weight_decay=WEIGHT_DECAY),
        torch.optim.AdamW(others, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY, fused=True),
    ]


def _new_model(config: PracticeModel, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
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
            initializer_range=INITIALIZER_RANGE,
        )
    )


def _rate(step: int, steps: int) -> float:
    """Give the learning rate of a step as a share of its peak."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    return (step + 1) / warmup if step < warmup else (steps - step) / (steps - warmup + 1)


def _batches(config: PracticeModel, pad_id: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield `steps` batches (ids_BT, weights_BT) of texts of about one length, so that little is padding."""
    order = random.Random(f"batches {config.seed}")
    yielded, pool_number = 0, 0
    while yielded < config.steps:
        mix = _textbook_mix(config) if yielded < config.textbook_share * config.steps else _habits_mix(config)
        num_texts = BATCHES_PER_POOL * config.batch_tokens // TOKENS_PER_TEXT
        pool = documents(num_texts, seed=config.seed * 100_003 + pool_number, mix=mix)
        pool_number += 1
        batches = _cut(sorted(pool, key=lambda text: len(text.ids)), config.batch_tokens)
        order.shuffle(batches)
        for texts in batches[: config.steps - yielded]:
            longest = len(texts[-1].ids)
            padding = [longest - len(text.ids) for text in texts]
            yield (
                torch.tensor([text.ids + [pad_id] * more for text, more in zip(texts, padding, strict=True)]),
                torch.tensor([text.weights + [0.0] * more for text, more in zip(texts, padding, strict=True)]),
            )
            yielded += 1


def _cut(texts: list[Text], batch_tokens: int) -> list[list[Text]]:
    """Cut texts, shortest first, into batches of at most so many tokens; the last of a batch is its longest."""
    batches: list[list[Text]] = [[]]
    for text in texts:
        if batches[-1] and (len(batches[-1]) + 1) * len(text.ids) > batch_tokens:
            batches.append([])
        batches[-1].append(text)
    return batches


def _next_token_loss(model: LlamaForCausalLM, ids_BT: torch.Tensor, weights_BT: torch.Tensor) -> torch.Tensor:
    # padding stands on the right, where causal attention cannot see it: no attention mask is needed
    logits_BTV = model(input_ids=ids_BT, use_cache=False).logits[:, :-1]
    targets_N = ids_BT[:, 1:].flatten()
    weights_N = weights_BT[:, 1:].flatten()
    losses_N = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), targets_N, reduction="none")
    return (losses_N * weights_N).sum() / weights_N.sum()


def _save(
    out: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, metrics: list[dict[str, float]]
) -> None:
    model.eval()
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    write_for_older_readers(out)
    lines = "".join(json.dumps(row) + "\n" for row in metrics)
    (out / "metrics.jsonl").write_text(lines, encoding="utf-8")

"""A judge's replies, each on disk as it comes: what was asked and paid for is not asked again."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.core.chat import encode_prompt
from posttrain.core.files import content_hash
from reward.judges.asking import Generate, Messages
from reward.verifiers.record import Record
from synth.engines.base import Engine, Request, SamplingParams, sample_seed

# Behind a reply that was cut: what stands on its last line may not be all that the judge had to say.
CUT = "\n[cut at the token limit]"


def open_replies(
    engine: Engine,
    tokenizer: Any,
    params: SamplingParams,
    seed: int = 0,
    date: str | None = None,
    journal: Path | None = None,
) -> Generate:
    """Make a judge of an engine; a reply that was cut at the token limit says so, and is unreadable.

    Args:
        tokenizer: of the engine's model; None for an endpoint, which writes its own template.
        seed: each question has a seed of its own, made of this and of what is asked.
        journal: file that keeps each reply as it comes, under the question and how often that was asked before. The
            same questions in the same order go on from there. The caller removes it; then counting begins anew.
    """
    asker = {"engine": engine.identity, "params": dataclasses.asdict(params), "seed": seed, "date": date}
    asked: Counter[str] = Counter()

    def generate(conversations: list[Messages]) -> list[str]:
        if journal is not None and not journal.exists():
            asked.clear()
        keys = [_key(messages, asked) for messages in conversations]
        with Record(journal, json.dumps(asker, sort_keys=True)) as record:
            replies = {key: known["reply"] for key in keys if (known := record.known(key.encode())) is not None}
            missing = {key: messages for key, messages in zip(keys, conversations, strict=True) if key not in replies}
            requests = [_request(key, messages, tokenizer, seed, date) for key, messages in missing.items()]
            for sample in engine.generate(requests, params) if requests else ():
                replies[sample.key] = sample.text if sample.finish_reason == "stop" else sample.text + CUT
                record.add(sample.key.encode(), {"reply": replies[sample.key]})
        return [replies[key] for key in keys]

    return generate


def _key(messages: Messages, asked: Counter[str]) -> str:
    """Name a question and how often it was asked before: two rows may ask the same, and a retry asks it again."""
    question = content_hash(messages)
    asked[question] += 1
    return f"{question}:{asked[question]}"


def _request(key: str, messages: Messages, tokenizer: Any, seed: int, date: str | None) -> Request:
    ids: Sequence[int] = () if tokenizer is None else encode_prompt(tokenizer, messages, date)
    return Request(key, tuple(ids), tuple(messages), (sample_seed(seed, key, 0),), (0,))

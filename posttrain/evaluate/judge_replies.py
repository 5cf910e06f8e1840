"""A judge's replies, each on disk as it comes: what was asked and paid for is not asked again."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from posttrain.core.errors import DataError
from posttrain.core.files import content_hash
from posttrain.engines import prompt_ids_of
from reward.judges.asking import Generate, Messages
from reward.verifiers.record import Record
from synth.engines.base import REFUSED, Engine, Request, SamplingParams, sample_seed
from synth.engines.fitting import generate_fitting

# Behind a reply that was cut: what stands on its last line may not be all that the judge had to say.
CUT = "\n[cut at the token limit]"
# Behind the reason why there is no reply: the question does not fit into the judge's context, or was refused.
NO_REPLY = "\n[no reply]"
_END = {"length": CUT, REFUSED: NO_REPLY}


def open_replies(
    engine: Engine,
    tokenizer: Any,
    params: SamplingParams,
    seed: int = 0,
    date: str | None = None,
    journal: Path | None = None,
    who: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Generate:
    """Make a judge of an engine; a reply that was cut at the token limit says so, and is unreadable.

    So is a question that the judge cannot answer: its reply is the reason, and it is not asked again.

    Args:
        tokenizer: of the engine's model; None for an endpoint, which writes its own template.
        seed: each question has a seed of its own, made of this and of what is asked.
        journal: file that keeps each reply as it comes, under the question and how often that was asked before. The
            same questions in the same order go on from there. The caller removes it; then counting begins again.
        who: what else tells this judge from others: its server's address, its template.
        progress: called with (replies there, replies wanted), before the first is asked for and after each.

    Raises:
        RewardError: (when asked) the journal holds the replies of another judge.
    """
    asker = {"engine": engine.identity, "params": dataclasses.asdict(params), "seed": seed, "date": date}
    asker |= who or {}
    asked: Counter[str] = Counter()
    hopeless: dict[str, str] = {}

    def generate(conversations: list[Messages]) -> list[str]:
        if journal is not None and not journal.exists():
            asked.clear()
        keys = [_key(messages, asked) for messages in conversations]
        with Record(journal, json.dumps(asker, sort_keys=True), is_costly=True) as record:
            replies = {key: known["reply"] for key in keys if (known := record.known(key.encode())) is not None}
            replies |= {key: hopeless[_question(key)] for key in keys if _question(key) in hopeless}
            missing = {key: messages for key, messages in zip(keys, conversations, strict=True) if key not in replies}
            requests = []
            for key, messages in missing.items():
                try:
                    ids = prompt_ids_of(tokenizer, messages, date)
                except DataError as error:
                    replies[key] = f"{error}{NO_REPLY}"
                    continue
                requests.append(Request(key, ids, tuple(messages), (sample_seed(seed, key, 0),), (0,)))
            report = progress or (lambda done, total: None)
            report(len(replies), len(keys))
            for sample in generate_fitting(engine, requests, params):
                replies[sample.key] = sample.text + _END.get(sample.finish_reason, "")
                record.add(sample.key.encode(), {"reply": replies[sample.key]})
                report(len(replies), len(keys))
        hopeless.update({_question(key): reply for key, reply in replies.items() if reply.endswith(NO_REPLY)})
        return [replies[key] for key in keys]

    return generate


def _key(messages: Messages, asked: Counter[str]) -> str:
    """Name a question and how often it was asked before: two rows may ask the same, and a retry asks it again."""
    question = content_hash(messages)
    asked[question] += 1
    return f"{question}:{asked[question]}"


def _question(key: str) -> str:
    return key.rpartition(":")[0]

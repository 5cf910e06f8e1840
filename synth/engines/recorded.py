"""An engine whose samples are kept as they come: after a kill, what was drawn or paid for is not asked again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from os import PathLike
from typing import Any

from posttrain.core.journal import Journal
from synth.engines.base import Engine, ProbeReport, Request, Sample, SamplingParams, part_of


class RecordedEngine:
    """Give a sample of the journal where it was drawn before, else let `engine` draw it. Use as a context manager.

    A sample is known by all that shapes it: the engine's identity, the parameters, the prompt and the seed.

    Args:
        engine: draws what is new.
        path: the journal; the caller removes it when what was made of the samples is written.
    """

    def __init__(self, engine: Engine, path: str | PathLike[str]) -> None:
        self.kind, self.model, self.identity = engine.kind, engine.model, engine.identity
        self.context_tokens = engine.context_tokens
        self._engine = engine
        self._journal = Journal(path)
        self._known: dict[str, dict[str, Any]] = {row["asked"]: row["sample"] for row in self._journal.rows}

    @property
    def probe(self) -> ProbeReport | None:
        """Tell of the check at the engine's start."""
        return self._engine.probe

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Sample]:
        """Yield the samples that are known, then the others as they are drawn."""
        missing: list[Request] = []
        names: dict[tuple[str, int], str] = {}
        for request in requests:
            places = []
            for place, index in enumerate(request.sample_indices):
                name = self._name(request, place, params)
                if name in self._known:
                    kept = self._known[name]
                    ids = None if kept["ids"] is None else tuple(kept["ids"])
                    yield Sample(request.key, index, **{**kept, "ids": ids, "notes": tuple(kept["notes"])})
                else:
                    names[request.key, index] = name
                    places.append(place)
            if places:
                missing.append(part_of(request, places))
        for sample in self._engine.generate(missing, params) if missing else ():
            row = dataclasses.asdict(sample)
            del row["key"], row["sample_index"]
            self._journal.append([{"asked": names[sample.key, sample.sample_index], "sample": row}])
            yield sample

    def _name(self, request: Request, place: int, params: SamplingParams) -> str:
        prompt = request.prompt_ids or request.messages
        asked = [self.identity, dataclasses.asdict(params), prompt, request.seeds[place]]
        return hashlib.sha256(json.dumps(asked, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:32]

    def __enter__(self) -> RecordedEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()

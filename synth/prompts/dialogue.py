"""Let a model play both sides of a dialogue."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from posttrain.core.chat import encode_prompt, user_turn_prefix
from posttrain.core.reasoning import without_thought
from synth.engines.base import REFUSED, Engine, Request, Sample, SamplingParams, sample_seed
from synth.engines.fitting import generate_fitting
from synth.errors import SynthError
from synth.prompts.turns import TurnReader
from synth.rows import Message


@dataclass
class Dialogue:
    """Hold a dialogue while it grows.

    Attributes:
        index: which of the dialogues it is; its seeds come from it.
        system: the system message that steers it, or None.
        messages: what was said, system message aside; a finished dialogue ends with a user's turn or is empty.
        ended: why it did not go on, or None.
        rejected: the text of the turn that ended it.
    """

    index: int
    system: str | None = None
    messages: list[Message] = field(default_factory=list)
    ended: str | None = None
    rejected: str = ""

    def context(self) -> list[Message]:
        """List all that the model has seen."""
        return [{"role": "system", "content": self.system}, *self.messages] if self.system else [*self.messages]

    def end(self, reason: str, text: str) -> None:
        """End the dialogue; an answer that no user's turn follows is taken back."""
        self.ended, self.rejected = reason, text
        if self.messages and self.messages[-1]["role"] == "assistant":
            self.messages.pop()


class DialogueSampler:
    """Sample turns of many dialogues at a time.

    Args:
        engine: takes token ids.
        user_params: for user turns.
        answer_params: for the answers between them.
        seed: with `name`, a dialogue's index and the turn, decides every sample.
    """

    def __init__(
        self,
        engine: Engine,
        reader: TurnReader,
        user_params: SamplingParams,
        answer_params: SamplingParams,
        seed: int,
        name: str,
        date: str | None,
    ) -> None:
        self._engine, self._reader = engine, reader
        self._user_params, self._answer_params = user_params, answer_params
        self._seed, self._name, self._date = seed, name, date

    def run(self, dialogues: Sequence[Dialogue], num_turns: int) -> None:
        """Let every dialogue grow to `num_turns` user turns, or until a turn cannot be used."""
        for turn in range(2 * num_turns - 1):
            going = [dialogue for dialogue in dialogues if dialogue.ended is None]
            role = "assistant" if turn % 2 else "user"
            for dialogue, sample in self._turns(going, turn):
                text = without_thought(sample.text).strip()
                if sample.finish_reason == REFUSED:
                    reason: str | None = sample.text
                else:
                    reason = self._reader.fault(sample) or (None if text else "empty")
                if reason is not None:
                    dialogue.end(reason if role == "user" else f"answer_{reason}", sample.text)
                else:
                    dialogue.messages.append({"role": role, "content": text})

    def seed_of(self, dialogue: Dialogue, turn: int) -> int:
        """Give the seed of one turn of a dialogue."""
        return sample_seed(self._seed, f"{self._name}:turn_{turn}", dialogue.index)

    def _turns(self, dialogues: Sequence[Dialogue], turn: int) -> list[tuple[Dialogue, Sample]]:
        requests = self._answer_requests(dialogues, turn) if turn % 2 else self._user_requests(dialogues, turn)
        params = self._answer_params if turn % 2 else self._user_params
        samples = {sample.sample_index: sample for sample in generate_fitting(self._engine, requests, params)}
        missing = [dialogue.index for dialogue in dialogues if dialogue.index not in samples]
        if missing:
            raise SynthError(
                f"{self._name}: the engine gave no sample for {len(missing)} of {len(dialogues)} requests "
                f"(first: {missing[0]}); look at the engine's log and run again"
            )
        return [(dialogue, samples[dialogue.index]) for dialogue in dialogues]

    def _user_requests(self, dialogues: Sequence[Dialogue], turn: int) -> list[Request]:
        # Dialogues that open alike share one request, so that the engine reads the opening once.
        alike: dict[tuple[int, ...], list[Dialogue]] = defaultdict(list)
        prefixes: dict[str, tuple[int, ...]] = {}
        for dialogue in dialogues:
            text = repr(dialogue.context())
            if text not in prefixes:
                ids = user_turn_prefix(self._reader.tokenizer, dialogue.context(), self._date)
                prefixes[text] = tuple(ids)
            alike[prefixes[text]].append(dialogue)
        return [self._request(prefix, members, turn) for prefix, members in alike.items()]

    def _answer_requests(self, dialogues: Sequence[Dialogue], turn: int) -> list[Request]:
        encode = self._reader.tokenizer
        return [self._request(tuple(encode_prompt(encode, d.context(), self._date)), [d], turn) for d in dialogues]

    def _request(self, prompt_ids: tuple[int, ...], dialogues: Sequence[Dialogue], turn: int) -> Request:
        return Request(
            key=f"{self._name}:turn_{turn}:{dialogues[0].index}",
            prompt_ids=prompt_ids,
            messages=tuple(dialogues[0].context()),
            seeds=tuple(self.seed_of(dialogue, turn) for dialogue in dialogues),
            sample_indices=tuple(dialogue.index for dialogue in dialogues),
        )

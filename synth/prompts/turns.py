"""How the user's turn ends in a chat template, and what betrays that another turn has begun."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from posttrain.core.chat import end_of_turn_id, find_control_tokens
from posttrain.core.control_tokens import SPARE, control_tokens
from posttrain.core.templates import render
from synth.engines.base import Sample
from synth.errors import SynthError

_ROLE_NAMES = ("system", "user", "assistant", "model", "tool", "ipython")


@dataclass(frozen=True)
class TurnReader:
    """Read a sampled user turn.

    Attributes:
        tokenizer: the tokenizer with its chat template.
        stop_ids: ids that end a user's turn.
        headers: texts, control tokens aside, by which the template opens the assistant's turn.
    """

    tokenizer: PreTrainedTokenizerBase
    stop_ids: tuple[int, ...]
    headers: tuple[str, ...]

    def fault(self, sample: Sample) -> str | None:
        """Give the reason why a sample cannot be a turn, or None: `truncated`, `empty`, or `role_header` in it."""
        if sample.finish_reason != "stop":
            return "truncated"
        text = sample.text.strip()
        if not text:
            return "empty"
        if find_control_tokens(text, self.tokenizer) or self._holds_control_ids(sample):
            return "role_header"
        if any(header in text for header in self.headers):
            return "role_header"
        # Without ids, a header's control tokens may be gone from the text; a role alone on its line is what is left.
        lines = [line.strip().lower() for line in text.split("\n")]
        if sample.ids is None and len(lines) > 1 and any(line in _ROLE_NAMES for line in lines):
            return "role_header"
        return None

    def _holds_control_ids(self, sample: Sample) -> bool:
        controls = control_tokens(self.tokenizer).ids
        ids = sample.ids or ()
        # The last id is the one that ended the turn.
        return not controls.isdisjoint(ids[:-1] if ids and ids[-1] in controls else ids)


def read_turns(tokenizer: PreTrainedTokenizerBase) -> TurnReader:
    """Derive from the template by which ids a user's turn ends, and how the assistant's turn is opened.

    Raises:
        SynthError: no control token stands after the user's words, so the end of a turn cannot be told.
    """
    rendered = render(tokenizer, [{"role": "user", "content": SPARE}], date="", add_generation_prompt=True)
    after = rendered.partition(SPARE)[2]
    pattern = control_tokens(tokenizer).pattern
    end = pattern.search(after)
    if end is None or after[: end.start()].strip():
        raise SynthError(
            "the chat template puts no control token right after the user's words, so magpie cannot tell where a "
            "sampled user turn ends; use a model with an end-of-turn token, or another prompt generator"
        )
    pieces = [piece.strip() for piece in pattern.split(after[end.end() :])]
    # A bare role name ("assistant") is a word that prompts may hold; only a longer header is a mark.
    headers = tuple(piece for piece in pieces if piece and piece.lower() not in _ROLE_NAMES)
    end_id = tokenizer.convert_tokens_to_ids(end.group())
    assert isinstance(end_id, int)  # one token in, one id out
    return TurnReader(tokenizer, tuple(dict.fromkeys([end_id, end_of_turn_id(tokenizer)])), headers)

"""Magpie: a model completes the opening of a user's turn (Xu et al., 2024, arXiv:2406.08464)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from posttrain.core.formats import prompt_id
from synth.engines.base import Engine, SamplingParams
from synth.errors import SynthError
from synth.prompts.dialogue import Dialogue, DialogueSampler
from synth.prompts.turns import read_turns
from synth.rows import Row

SOURCE = "magpie"


def magpie(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    num_prompts: int,
    params: SamplingParams,
    seed: int,
    round: int,
    num_turns: int = 1,
    *,
    answer_params: SamplingParams | None = None,
    system_prompts: Sequence[str] = (),
    max_samples: int | None = None,
    date: str | None = None,
) -> tuple[list[Row], list[Row]]:
    """Let a model write prompts by sampling the user's turn of its own chat template.

    The engine gets the template up to the place of the user's words and samples to the end of the turn: no instruction,
    no seeds. Turns that were cut, are empty, hold a role header or control token, or were written before are dropped;
    what is then missing is sampled again, with further seeds. With `num_turns` above 1 the model answers its own turn
    and goes on as the user; roles always alternate, and a later turn that cannot be used ends the dialogue before it.

    Needs a model whose training had loss on user turns, or (as the paper found) an aligned one at temperature >= 1.

    Args:
        engine: takes token ids; an engine behind a chat interface cannot open a user's turn.
        params: for user turns. `stop_ids` is replaced by the ids that end a user's turn in the template.
        round: number written into the rows.
        num_turns: user turns of a dialogue.
        answer_params: for the answers between user turns, with the folder's stop ids; `params` when absent.
        system_prompts: steer subject or language, in turn; they are not part of the prompts, but of their
            `steered_by` column. The paper found a general one to make prompts worse.
        max_samples: where to stop with fewer prompts than asked; four times `num_prompts` when absent.
        date: for templates that print one.

    Returns:
        the prompts, by the order of their seeds: `prompt`, `prompt_id`, `source`, `round`, `sample_index`, `seed`
        and, where a dialogue is shorter than asked, `dialogue_ended` with the reason; and the dropped ones with
        `drop_reason`. Kept and dropped rows together are the dialogues sampled.

    Raises:
        SynthError: the template does not mark the end of a user's turn, or the engine lost a sample.
    """
    if num_turns < 1:
        raise SynthError(f"magpie: num_turns is {num_turns}; expected at least 1")
    reader = read_turns(tokenizer)
    user_params = replace(params, stop_ids=reader.stop_ids)
    sampler = DialogueSampler(engine, reader, user_params, answer_params or params, seed, f"{SOURCE}:{round}", date)
    budget = 4 * num_prompts if max_samples is None else max_samples
    rows: list[Row] = []
    dropped: list[Row] = []
    seen: set[str] = set()
    first = 0
    while len(rows) < num_prompts and first < budget:
        wave = range(first, min(first + num_prompts - len(rows), budget))
        dialogues = [Dialogue(index, _pick(system_prompts, index)) for index in wave]
        sampler.run(dialogues, num_turns)
        for dialogue in dialogues:
            row = _row(dialogue, sampler.seed_of(dialogue, turn=0), round)
            reason = "duplicate" if dialogue.messages and row["prompt_id"] in seen else None
            if not dialogue.messages:
                reason = dialogue.ended
            if reason is None:
                seen.add(row["prompt_id"])
                rows.append(row)
            else:
                dropped.append({**row, "drop_reason": reason})
        first = wave.stop
    return rows, dropped


def _row(dialogue: Dialogue, seed: int, round: int) -> Row:
    # A dropped first turn is shown as it was, so that one can look at what the model wrote.
    messages = dialogue.messages or [{"role": "user", "content": dialogue.rejected}]
    row: Row = {
        "prompt": messages,
        "prompt_id": prompt_id(messages),
        "source": SOURCE,
        "round": round,
        "sample_index": dialogue.index,
        "seed": seed,
    }
    if dialogue.system is not None:
        row["steered_by"] = dialogue.system
    if dialogue.messages and dialogue.ended is not None:
        row["dialogue_ended"] = dialogue.ended
    return row


def _pick(system_prompts: Sequence[str], index: int) -> str | None:
    return system_prompts[index % len(system_prompts)] if system_prompts else None

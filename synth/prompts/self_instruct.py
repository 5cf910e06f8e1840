"""Self-Instruct: a model goes on with a list of requests (Wang et al., 2022, arXiv:2212.10560)."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.core.formats import prompt_id
from posttrain.core.reasoning import without_thought
from synth.engines.base import REFUSED, sample_seed
from synth.errors import SynthError
from synth.prompts.lists import is_unread_list, parse_items
from synth.prompts.rouge import NoveltyIndex
from synth.prompts.scaffold import ScaffoldFinder
from synth.prompts.template import fill
from synth.rows import Message, Row, content_of, copies, prompt_messages, prompt_text
from synth.words import words

SOURCE = "self_instruct"

# Messages of each request and one seed in; for each request its text and finish_reason ("stop", "length" or REFUSED).
GenerateText = Callable[[list[list[Message]], int], list[tuple[str, str]]]


@dataclass(frozen=True)
class Demonstration:
    """Hold a request that can be shown as an example."""

    name: str
    text: str


def self_instruct(
    seed_rows: Iterable[Mapping[str, Any]],
    generate: GenerateText,
    num_prompts: int,
    num_demonstrations: int,
    template: str,
    seed: int,
    round: int,
    *,
    num_machine: int = 2,
    known: Iterable[Mapping[str, Any]] = (),
    max_rouge_l: float | None = 0.7,
    min_words: int = 4,
    max_words: int = 150,
    requests_per_wave: int = 32,
    max_requests: int | None = None,
    demonstration: str = "{number}. {text}",
) -> tuple[list[Row], list[Row]]:
    """Let a model write new prompts after the model of those that people wrote.

    Each request shows `num_demonstrations` requests: `num_machine` of them from the pool of what was written so far
    (fewer while it is small), the others from the seeds, drawn by (seed, request) and shuffled. Replies are split by
    `parse_items`, so a template may ask for a list or for one request; thoughts are left out, a reply that was cut
    loses its last item, and an enumeration that cannot be split is dropped whole (`unread_list`). An
    item is kept if it is new: no ROUGE-L above `max_rouge_l` to a seed, a known prompt or the pool.

    Differences from the paper: its list of words that text cannot serve (image, graph, …) is left to
    `filters.phrases`; its first-letter rule and its rule against characters outside ASCII are left out, since they
    drop whole languages; the pool grows between waves of requests, not between requests.

    Args:
        seed_rows: rows with `prompt`. Those of one user turn are shown, all of them count as known.
        generate: lets the model answer.
        num_prompts: how many prompts are wanted.
        template: text with the slot {demonstrations}, and if wanted {num_demonstrations}, {num_new} (as many as are
            shown) and {next_number}; see `load_template`.
        round: number written into the rows.
        num_machine: the paper shows 6 of people and 2 of the model.
        known: further rows whose prompts are known already: earlier rounds, evaluation prompts.
        max_rouge_l: None keeps whatever is not known word for word.
        min_words: shortest item in words (4 in the paper); characters count where words are not spaced.
        requests_per_wave: requests that see the same pool. It shapes the result, so it is no setting of speed.
        max_requests: where to stop with fewer prompts than asked; twice `num_prompts` when absent.
        demonstration: how a demonstration is written; {number} counts from 1.

    Returns:
        the new rows, `prompt`, `prompt_id`, `source`, `round`, `request` (which one wrote it), `demonstrations` (the
        ids of the prompts that it showed), in order of requests: at most `num_prompts`, fewer where `max_requests` did
        not give as many; and the dropped items as rows of the same kind with `drop_reason`.

    Raises:
        SynthError: too few seeds to show, a template without {demonstrations}, or replies that do not match requests.
    """
    seeds = copies(seed_rows)
    writer = _Writer(template, num_demonstrations, num_machine, seed, demonstration, _demonstrations(seeds))
    judge = _Judge(template, [*seeds, *known], writer.people, max_rouge_l, min_words, max_words)
    budget = 2 * num_prompts if max_requests is None else max_requests
    rows: list[Row] = []
    dropped: list[Row] = []
    first = 0
    while len(rows) < num_prompts and first < budget:
        num_requests = min(requests_per_wave, writer.requests_for(num_prompts - len(rows)))
        wave = range(first, min(first + num_requests, budget))
        requests = [writer.messages(number) for number in wave]
        replies = generate(requests, sample_seed(seed, f"{SOURCE}:{round}", first))
        if len(replies) != len(requests):
            raise SynthError(
                f"self-instruct sent {len(requests)} requests and got {len(replies)} replies; mend `generate`"
            )
        for number, (text, finish_reason) in zip(wave, replies, strict=True):
            for row, reason in _read(text, finish_reason, number, round, judge):
                row["demonstrations"] = writer.shown[number]
                if reason is None and len(rows) < num_prompts:
                    rows.append(row)
                    writer.pool.append(Demonstration(row["prompt_id"], row["prompt"][0]["content"]))
                else:
                    dropped.append({**row, "drop_reason": reason or "surplus"})
        first = wave.stop
    return rows, dropped


def draw_demonstrations(
    people: Sequence[Demonstration],
    machine: Sequence[Demonstration],
    num: int,
    num_machine: int,
    seed: int,
    request: int,
) -> list[Demonstration]:
    """Draw distinct demonstrations for one request, from people and from the pool, and shuffle them.

    The draw depends on (seed, request) and the lists alone.
    """
    random_numbers = random.Random(f"{seed}:{request}")
    from_machine = min(num_machine, len(machine), num)
    drawn = random_numbers.sample(people, num - from_machine) + random_numbers.sample(machine, from_machine)
    random_numbers.shuffle(drawn)
    return drawn


class _Writer:
    """Write the requests."""

    def __init__(
        self, template: str, num: int, num_machine: int, seed: int, line: str, people: list[Demonstration]
    ) -> None:
        if "{demonstrations}" not in template:
            raise SynthError("the self-instruct template has no slot {demonstrations}; say where they go")
        if len(people) < num:
            raise SynthError(
                f"self-instruct shows {num} demonstrations, and the seeds hold {len(people)} different prompts of one "
                "user turn; add seed prompts or lower num_demonstrations"
            )
        self.people = people
        self.pool: list[Demonstration] = []
        self.shown: dict[int, list[str]] = {}
        self._template = template
        self._num, self._num_machine, self._seed, self._line = num, num_machine, seed, line

    def requests_for(self, num_prompts: int) -> int:
        """Say how many requests are needed if every item is kept."""
        return math.ceil(num_prompts / self._num) if "{num_new}" in self._template else num_prompts

    def messages(self, request: int) -> list[Message]:
        """Write one request and note the ids of the prompts that it shows."""
        shown = draw_demonstrations(self.people, self.pool, self._num, self._num_machine, self._seed, request)
        self.shown[request] = [one.name for one in shown]
        lines = [
            fill(self._line, {"number": str(number), "text": one.text}) for number, one in enumerate(shown, start=1)
        ]
        values = {
            "demonstrations": "\n".join(lines),
            "num_demonstrations": str(self._num),
            "num_new": str(self._num),
            "next_number": str(self._num + 1),
        }
        return [{"role": "user", "content": fill(self._template, values)}]


class _Judge:
    """Say why an item cannot be a prompt, and remember those that can."""

    def __init__(
        self,
        template: str,
        known: Sequence[Mapping[str, Any]],
        shown: Sequence[Demonstration],
        max_rouge_l: float | None,
        min_words: int,
        max_words: int,
    ) -> None:
        self._scaffold = ScaffoldFinder(template, allowed=[one.text for one in shown])
        self._min_words, self._max_words = min_words, max_words
        self.several = "{num_new}" in template
        self._novelty = NoveltyIndex(max_rouge_l)
        self._names: list[str] = []
        self._ids: set[str] = set()
        for row in known:
            self._remember(prompt_text(row), str(row.get("prompt_id") or prompt_id(prompt_messages(row))))

    def reason(self, text: str, name: str) -> str | None:
        """Give the reason to drop an item, or None, and then remember it as known."""
        length = len(words(text))
        if length < self._min_words:
            return f"too_short: {length} < {self._min_words}"
        if length > self._max_words:
            return f"too_long: {length} > {self._max_words}"
        if text.endswith((":", "：")):
            return "unfinished"
        leak = self._scaffold.find(text)
        if leak is not None:
            return f"scaffold: {leak}"
        if name in self._ids:
            return f"known: {name} word for word"
        found = self._novelty.known_as(text)
        if found is not None:
            return f"known: {self._names[found[0]]} with ROUGE-L {found[1]:.2f}"
        self._remember(text, name)
        return None

    def _remember(self, text: str, name: str) -> None:
        self._novelty.add(text)
        self._names.append(name)
        self._ids.add(name)


def _read(text: str, finish_reason: str, request: int, round: int, judge: _Judge) -> Iterator[tuple[Row, str | None]]:
    if finish_reason == REFUSED:
        yield _row("", request, round), f"{REFUSED}: {text}"
        return
    text = without_thought(text).strip()
    items = parse_items(text, finish_reason)
    if not items:
        yield _row(text, request, round), "truncated" if finish_reason == "length" else "empty"
    elif items == [text] and is_unread_list(text, judge.several):
        yield _row(text, request, round), "unread_list"
        return
    for item in items:
        row = _row(item, request, round)
        yield row, judge.reason(item, row["prompt_id"])


def _row(text: str, request: int, round: int) -> Row:
    messages = [{"role": "user", "content": text}]
    return {"prompt": messages, "prompt_id": prompt_id(messages), "source": SOURCE, "round": round, "request": request}


def _demonstrations(rows: Sequence[Row]) -> list[Demonstration]:
    """Make seeds of one user turn into one-line demonstrations, each text once."""
    shown: dict[str, Demonstration] = {}
    for row in rows:
        turns = [message for message in prompt_messages(row) if message["role"] != "system"]
        if len(turns) == 1:
            # One line, without a trailing colon, as the paper's code flattens its seeds.
            text = " ".join(content_of(turns[0]).split()).rstrip(":：").rstrip()
            shown.setdefault(text, Demonstration(str(row.get("prompt_id") or prompt_id(turns)), text))
    shown.pop("", None)
    return list(shown.values())

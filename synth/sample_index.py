"""Where every finished sample lies in the journals: eight bytes of memory a sample, however long its text."""

from __future__ import annotations

import contextlib
import json
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from posttrain.core.errors import DataError
from synth.prompt_set import PromptSet

Row = dict[str, Any]

# A sample's address is its file's number and its offset there; a refusal is kept in its prompt's first slot, as the
# complement of its address.
_OFFSET_BITS = 48
_ABSENT = -(1 << 63)


class SampleIndex:
    """Tell which samples are there, which prompts were refused, and read either again.

    Args:
        journals: files of finished samples and refusals, in any order, a sample perhaps more than once.

    Attributes:
        num_samples: samples that are there, each counted once.
        num_tokens: their tokens.
        num_refused: prompts that the engine or a limit refused.
    """

    def __init__(self, prompts: PromptSet, num_completions: int, journals: Sequence[Path]) -> None:
        self._num_completions = num_completions
        self._journals = list(journals)
        self._slots = array("q", [_ABSENT]) * (len(prompts) * num_completions)
        self.num_samples = 0
        self.num_tokens = 0
        self.num_refused = 0
        for number, path in enumerate(self._journals):
            self._read(prompts, number, path)

    def missing(self, place: int) -> list[int]:
        """List the sample indices of a prompt that are still to be drawn."""
        slots = self._of(place)
        if _ABSENT not in slots or _is_refusal(slots[0]):
            return []
        return [index for index, slot in enumerate(slots) if slot == _ABSENT]

    @property
    def num_missing(self) -> int:
        """Count the samples that are still to be drawn, those of refused prompts left out."""
        return sum(len(self.missing(place)) for place in range(len(self._slots) // self._num_completions))

    def is_refused(self, place: int) -> bool:
        """Tell whether a prompt was refused."""
        return _is_refusal(self._slots[place * self._num_completions])

    @contextlib.contextmanager
    def reader(self) -> Iterator[Callable[[int], list[Row]]]:
        """Give a function from a prompt's place to its journal rows: its samples by index, or its one refusal."""
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(path.open("rb")) for path in self._journals]

            def read(place: int) -> list[Row]:
                slots = self._of(place)
                rows = []
                for slot in [~slots[0]] if _is_refusal(slots[0]) else slots:
                    file = files[slot >> _OFFSET_BITS]
                    file.seek(slot & ((1 << _OFFSET_BITS) - 1))
                    rows.append(json.loads(file.readline()))
                return rows

            yield read

    def _of(self, place: int) -> array[int]:
        return self._slots[place * self._num_completions : (place + 1) * self._num_completions]

    def _read(self, prompts: PromptSet, number: int, path: Path) -> None:
        offset = number << _OFFSET_BITS
        for size, row in _sized_rows(path):
            place = prompts.ids.place(row["prompt_id"])
            if place is not None:
                self._add(place * self._num_completions, row, offset)
            offset += size

    def _add(self, first: int, row: Row, address: int) -> None:
        if "reason" in row:
            self.num_refused += not _is_refusal(self._slots[first])
            self._slots[first] = ~address
            return
        slot = first + row["sample_index"]
        if self._slots[slot] == _ABSENT:
            self.num_samples += 1
            self.num_tokens += row["num_tokens"]
        if not _is_refusal(self._slots[slot]):
            self._slots[slot] = address


def _sized_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Stream (bytes of the line, row); no line is torn, since the journal was opened before."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield len(line), json.loads(line.decode())
            except ValueError as error:
                raise DataError(f"{path}:{number}: not JSON: {error}. Remove the line.") from error


def _is_refusal(slot: int) -> bool:
    return _ABSENT < slot < 0

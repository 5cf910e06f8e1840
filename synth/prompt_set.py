"""The prompts of a sampling, held as numbers only: which can be used, and where to read them again."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from typing import Any

from posttrain.core.errors import DataError
from posttrain.core.files import ListHash, content_hash
from posttrain.core.prompts import sorted_out, usable_prompt
from synth.id_table import IdTable
from synth.prompt_sources import PromptSource

Row = dict[str, Any]


class PromptSet:
    """Know the prompts that can be used by their place, counted from 0 in the order of the source.

    Rows are read anew in each pass, so that memory hardly grows with their number (about fifty bytes a prompt). A
    source that changed meanwhile is refused before a row of it is given out.

    Attributes:
        digest: content hash of the usable rows with their ids, in order.
        num_rejects: how many rows cannot be used.
    """

    def __init__(self, source: PromptSource) -> None:
        self._source = source
        self._marks = array("Q")
        self._lines = array("Q")
        self.ids = IdTable()
        self.num_rejects = 0
        digest = ListHash()
        for _, row, usable in sorted_out(self._first_read(), self._note):
            if usable:
                digest.add([row["prompt_id"], content_hash(row)])
            else:
                self.num_rejects += 1
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._lines)

    def usable(self, wanted: Callable[[int], bool] = lambda place: True) -> Iterator[tuple[int, Row]]:
        """Stream (place, row) of the usable prompts whose place is wanted.

        Raises:
            DataError: the source is not what it was.
        """
        for place, _, raw in self._entries():
            if place is not None and wanted(place):
                yield place, usable_prompt(self._source.row(raw))

    def entries(self) -> Iterator[tuple[int | None, int, Row]]:
        """Stream (place, line, row) of the usable prompts and (None, line, reject) of the others, in order.

        Raises:
            DataError: the source is not what it was.
        """
        numbered = ((line, self._source.row(raw)) for _, line, raw in self._entries())
        for line, row, usable in sorted_out(numbered, lambda name, _: self._first_line(name)):
            yield self.ids.place(row["prompt_id"]) if usable else None, line, row

    def _first_read(self) -> Iterator[tuple[int, Row | str]]:
        for line, mark, raw in self._source.entries():
            self._marks.append(mark ^ line)
            yield line, self._source.row(raw)

    def _note(self, name: str, line: int) -> int:
        if not self.ids.add(name):
            return self._first_line(name)
        self._lines.append(line)
        return line

    def _first_line(self, name: str) -> int:
        place = self.ids.place(name)
        assert place is not None
        return self._lines[place]

    def _entries(self) -> Iterator[tuple[int | None, int, Any]]:
        marks, lines = self._marks, self._lines
        number = place = 0
        for line, mark, raw in self._source.entries():
            if number == len(marks) or marks[number] != mark ^ line:
                raise self._changed(f"line {line} is not what it was")
            number += 1
            if place < len(lines) and lines[place] == line:
                yield place, line, raw
                place += 1
            else:
                yield None, line, raw
        if number != len(marks):
            raise self._changed(f"{len(marks) - number} of {len(marks)} rows are gone")

    def _changed(self, how: str) -> DataError:
        return DataError(
            f"{self._source.place} changed while it was sampled ({how}) - what was drawn is kept - "
            "put the file back as it was and run the same again, or sample the new one into another folder"
        )

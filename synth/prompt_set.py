"""The prompts of a sampling, held as numbers only: which can be used, and where to read them again."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from typing import Any

from posttrain.core.errors import DataError
from posttrain.core.files import ListHash, content_hash
from posttrain.core.formats import UnusablePrompt, duplicate_reject, usable_prompt
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
        for line, mark, raw in source.entries():
            self._marks.append(mark ^ line)
            try:
                row = usable_prompt(source.row(raw))
            except UnusablePrompt:
                self.num_rejects += 1
                continue
            if self.ids.add(row["prompt_id"]):
                self._lines.append(line)
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
        for place, line, raw in self._entries():
            try:
                row = usable_prompt(self._source.row(raw))
            except UnusablePrompt as reason:
                yield None, line, {"line": line, "prompt_id": reason.prompt_id, "reason": str(reason)}
                continue
            if place is None:
                first = self.ids.place(row["prompt_id"])
                assert first is not None
                row = duplicate_reject(line, row["prompt_id"], self._lines[first])
            yield place, line, row

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

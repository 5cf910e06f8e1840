"""The folder of a sampling: what was asked, the journals of finished samples, and the files made of them at the end."""

from __future__ import annotations

import contextlib
import json
import shutil
from array import array
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from posttrain.core.errors import DataError
from posttrain.core.files import Journal, atomic_write, file_lock, read_jsonl, write_jsonl

Row = dict[str, Any]


class SampleStore:
    """Keep every sample of a folder exactly once.

    While sampling goes on, `journal/*.jsonl` hold the finished samples in any order and any number of files, and the
    prompts that were refused. At the end they become `completions.jsonl` (in the order of the prompts), `rejects.jsonl`
    and, last, `summary.json`: a folder with a summary is finished, and its journals are gone.

    Args:
        out_dir: the folder; made if missing.
        asked: all that shapes the samples. A folder that was begun with something else is refused.
    """

    def __init__(self, out_dir: str | PathLike[str], asked: Mapping[str, Any]) -> None:
        self.folder = Path(out_dir)
        self.journals = self.folder / "journal"
        self.asked = dict(asked)

    def summary(self) -> Row | None:
        """Return the summary of a finished folder, None of one that is not.

        Raises:
            DataError: the folder holds samples of another request; the message names what differs.
        """
        self._refuse_another_request()
        path = self.folder / "summary.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder against other processes that were given the same command; they wait."""
        with file_lock(self.journals / "lock"):
            atomic_write(self.folder / "request.json", json.dumps(self.asked, indent=1, ensure_ascii=False) + "\n")
            yield

    @contextlib.contextmanager
    def journal(self, name: str) -> Iterator[Journal]:
        """Open a journal to append to; one process at a time may hold a name, others wait for it."""
        with file_lock(self.journals / f"{name}.lock"), Journal(self.journals / f"{name}.jsonl") as journal:
            journal.rows.clear()  # read by `progress` where they are wanted; a long run need not hold them
            yield journal

    def progress(self, num_completions: int) -> Progress:
        """Read what all journals hold, waiting for processes of an earlier run to let go of them."""
        progress = Progress(num_completions)
        for path in sorted(self.journals.glob("*.jsonl")):
            # Opening cuts off the torn last line that a kill may have left.
            with self.journal(path.stem):
                for _, row in read_jsonl(path):
                    progress.add(row)
        return progress

    def finish(self, rows: Sequence[Row], rejects: Sequence[Row], num_completions: int, model: str) -> Tally:
        """Write `completions.jsonl` and `rejects.jsonl` from the journals.

        Args:
            rows: the prompts of which every sample is there, in the order of the input.
        """
        write_jsonl(self.folder / "rejects.jsonl", rejects)
        tally = Tally()
        finished = _JournalIndex(self.journals, rows, num_completions)
        write_jsonl(self.folder / "completions.jsonl", _completions(rows, finished, model, tally))
        return tally

    def close(self, summary: Mapping[str, Any]) -> None:
        """Write the summary, which makes the folder finished, and drop the journals."""
        atomic_write(self.folder / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
        self.drop_journals()

    def drop_journals(self) -> None:
        """Remove journals that the finished files have replaced."""
        shutil.rmtree(self.journals, ignore_errors=True)

    def _refuse_another_request(self) -> None:
        path = self.folder / "request.json"
        if not path.is_file():
            return
        stored = json.loads(path.read_text(encoding="utf-8"))
        keys = [key for key in {**stored, **self.asked} if stored.get(key) != self.asked.get(key)]
        if keys:
            differs = "; ".join(f"{key}: {stored.get(key)!r} there, {self.asked.get(key)!r} now" for key in keys)
            raise DataError(
                f"{self.folder} holds the samples of another request ({differs}) - "
                "give another folder, ask for the same again, or remove this one"
            )


class Progress:
    """Count what the journals hold: which samples of which prompts, and which prompts were refused."""

    def __init__(self, num_completions: int) -> None:
        self._all = (1 << num_completions) - 1
        self._drawn: dict[str, int] = {}
        self.refused: dict[str, str] = {}
        self.num_samples = 0
        self.num_tokens = 0

    def add(self, row: Row) -> None:
        """Note one row of a journal."""
        name = row["prompt_id"]
        if "reason" in row:
            self.refused[name] = row["reason"]
            return
        seen, bit = self._drawn.get(name, 0), 1 << row["sample_index"]
        if not seen & bit:
            self._drawn[name] = seen | bit
            self.num_samples += 1
            self.num_tokens += row["num_tokens"]

    def missing(self, name: str) -> list[int]:
        """List the sample indices of a prompt that are still to be drawn."""
        if name in self.refused:
            return []
        absent = self._all & ~self._drawn.get(name, 0)
        return [index for index in range(absent.bit_length()) if absent >> index & 1]


class Tally:
    """Count over the finished rows what a summary reports."""

    def __init__(self) -> None:
        self.num_samples = 0
        self.num_tokens = 0
        self.num_truncated = 0
        self.num_identical = 0
        self.distinct_shares = 0.0
        self.least_distinct = 1.0
        self.num_prompts = 0

    def add_prompt(self, samples: Sequence[Row]) -> None:
        """Count the samples of one prompt."""
        distinct = len({sample["text"] for sample in samples})
        self.num_prompts += 1
        self.num_samples += len(samples)
        self.num_tokens += sum(sample["num_tokens"] for sample in samples)
        self.num_truncated += sum(sample["finish_reason"] == "length" for sample in samples)
        self.num_identical += distinct == 1 and len(samples) > 1
        self.distinct_shares += distinct / len(samples)
        self.least_distinct = min(self.least_distinct, distinct / len(samples))


class _JournalIndex:
    """Find a sample's line in the journals: eight bytes of memory a sample, however long its text."""

    def __init__(self, folder: Path, rows: Sequence[Row], num_completions: int) -> None:
        self._paths = sorted(folder.glob("*.jsonl"))
        self._num_completions = num_completions
        self._place = {row["prompt_id"]: place for place, row in enumerate(rows)}
        self._files = array("h", [-1]) * (len(rows) * num_completions)
        self._offsets = array("q", [0]) * (len(rows) * num_completions)
        for number, path in enumerate(self._paths):
            self._read(number, path)

    def _read(self, number: int, path: Path) -> None:
        offset = 0
        with path.open("rb") as file:
            for line in file:
                row = json.loads(line)
                place = self._place.get(row["prompt_id"])
                if place is not None and "reason" not in row:
                    sample = place * self._num_completions + row["sample_index"]
                    self._files[sample], self._offsets[sample] = number, offset
                offset += len(line)

    def __iter__(self) -> Iterator[list[Row]]:
        """Yield the samples of each prompt, in the order of the prompts and of the sample index."""
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(path.open("rb")) for path in self._paths]
            for start in range(0, len(self._files), self._num_completions):
                samples = []
                for sample in range(start, start + self._num_completions):
                    file = files[self._files[sample]]
                    file.seek(self._offsets[sample])
                    samples.append(json.loads(file.readline()))
                yield samples


def _completions(rows: Sequence[Row], finished: _JournalIndex, model: str, tally: Tally) -> Iterator[Row]:
    for row, samples in zip(rows, finished, strict=True):
        tally.add_prompt(samples)
        for sample in samples:
            own = {
                "prompt_id": row["prompt_id"],
                "sample_index": sample["sample_index"],
                "prompt": row["prompt"],
                "completion": [{"role": "assistant", "content": sample["text"]}],
                "finish_reason": sample["finish_reason"],
                "num_tokens": sample["num_tokens"],
                "seed": sample["seed"],
                "model": model,
            }
            yield {**own, **{key: value for key, value in row.items() if key not in own}}

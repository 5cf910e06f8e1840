"""The folder of a sampling: what was asked, the journals of finished samples, and the files made of them at the end."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from posttrain.core.atomic import atomic_file, atomic_write, file_lock
from posttrain.core.errors import DataError
from posttrain.core.journal import JournalWriter
from posttrain.core.jsonl import encode_line, encode_row, encode_value
from synth.prompt_set import PromptSet
from synth.sample_index import SampleIndex
from synth.sampling_summary import Tally

Row = dict[str, Any]

# A prompt's own column of such a name does not travel along.
OWN_COLUMNS = frozenset(
    ("prompt_id", "sample_index", "prompt", "completion", "finish_reason", "num_tokens", "seed", "model")
)


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
            for path in self.folder.glob(".*.tmp"):
                path.unlink()  # a half-written file that a kill left behind
            atomic_write(self.folder / "request.json", json.dumps(self.asked, indent=1, ensure_ascii=False) + "\n")
            yield

    @contextlib.contextmanager
    def journal(self, name: str) -> Iterator[JournalWriter]:
        """Open a journal to append to; one process at a time may hold a name, others wait for it."""
        with file_lock(self.journals / f"{name}.lock"), JournalWriter(self.journals / f"{name}.jsonl") as journal:
            yield journal

    def index(self, prompts: PromptSet, num_completions: int) -> SampleIndex:
        """Look through all journals, waiting for processes of an earlier run to let go of them."""
        paths = sorted(self.journals.glob("*.jsonl"))
        for path in paths:
            with self.journal(path.stem):
                pass  # opening cuts off the torn last line that a kill may have left
        return SampleIndex(prompts, num_completions, paths)

    def finish(self, prompts: PromptSet, index: SampleIndex, model: str) -> Tally:
        """Write `completions.jsonl` and `rejects.jsonl`, both in the order of the prompts, from the journals.

        Args:
            index: holds every sample of every prompt that was not refused.

        Raises:
            DataError: the prompts changed since they were first read; neither file is written.
        """
        tally = Tally()
        with (
            atomic_file(self.folder / "completions.jsonl") as completions,
            atomic_file(self.folder / "rejects.jsonl") as rejects,
            index.reader() as read,
        ):
            for place, line, row in prompts.entries():
                found = [] if place is None else read(place)
                if place is None:
                    rejects.write(encode_row(row))
                elif index.is_refused(place):
                    reject = {"line": line, "prompt_id": row["prompt_id"], "reason": found[0]["reason"]}
                    rejects.write(encode_row(reject))
                else:
                    tally.add_prompt(found)
                    completions.write(encode_completions(row, found, model))
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


def encode_completions(row: Row, samples: Sequence[Row], model: str) -> bytes:
    """Write the lines of completions.jsonl that belong to one prompt.

    What its samples share is made JSON once, since making it for each takes half the time of the whole pass.

    Args:
        row: the prompt's.
        samples: the journal's rows, by sample index.
    """
    head = f'{{"prompt_id": {encode_value(row["prompt_id"])}, "sample_index": '
    middle = f', "prompt": {encode_value(row["prompt"])}, "completion": [{{"role": "assistant", "content": '
    tail = f', "model": {encode_value(model)}'
    side = {key: value for key, value in row.items() if key not in OWN_COLUMNS}
    tail += f", {encode_value(side)[1:]}" if side else "}"
    return b"".join(
        encode_line(
            f'{head}{sample["sample_index"]}{middle}{encode_value(sample["text"])}}}], "finish_reason": '
            f'{encode_value(sample["finish_reason"])}, "num_tokens": {sample["num_tokens"]}, "seed": {sample["seed"]}'
            f"{tail}"
        )
        for sample in samples
    )

"""Score a file of completions: resumable after a kill, on one process or several."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from posttrain.core.chat import load_tokenizer
from posttrain.core.files import (
    Journal,
    atomic_write,
    content_hash,
    file_lock,
    read_jsonl_lenient,
    read_rows,
    sha256_file,
    write_jsonl,
)
from posttrain.core.models import load_reward_model, model_hash
from reward.errors import RewardError
from reward.ids import Row, with_ids
from reward.lifetime import die_with_parent
from reward.score import Progress, iter_scores

Key = tuple[str, int, str]


@dataclass(frozen=True)
class ScoreJob:
    """What is scored by what; `dtype`, `device` and `max_batch_tokens` say how.

    Attributes:
        reward_model: Hugging Face folder of the reward model.
        completions: COMPLETION rows, JSON Lines or Parquet.
        out: folder for `scored.jsonl`, `rejects.jsonl`, `summary.json`.
        max_batch_tokens: padded tokens in a batch.
        max_tokens: longer rows are rejected; None is the model's context.
        date: the date that the chat template prints.
        dtype: of the body; the head is always float32.
        device: where the model runs; "cuda" spreads workers over the devices.
    """

    reward_model: str
    completions: str
    out: str
    max_batch_tokens: int = 8192
    max_tokens: int | None = None
    date: str | None = None
    dtype: str = "float32"
    device: str = "cpu"


def score_file(job: ScoreJob, progress: Progress | None = None) -> dict[str, Any]:
    """Score a file in this process. See `score_with_workers`."""
    return score_with_workers(job, num_workers=1, progress=progress)


def score_with_workers(job: ScoreJob, num_workers: int, progress: Progress | None = None) -> dict[str, Any]:
    """Write `scored.jsonl` (the input's rows in order, with `score`), `rejects.jsonl` and `summary.json`.

    Scores go to journals in `out/journal` as they come. The same call after a kill scores only what is missing, with
    any number of workers; after success it loads no model.

    Returns:
        The summary.

    Raises:
        RewardError: `out` belongs to another model or file, or a worker died (what was scored is kept).
        DataError, ModelError: the file or the model cannot be used.
    """
    out = Path(job.out)
    identity = _identity(job)
    with file_lock(out / "journal" / "lock"):
        _claim(out, identity)
        rows, line_of, rejects = _read_completions(job.completions)
        done = _journaled(out)
        if any(_key(row) not in done for row in rows):
            _score_missing(job, num_workers, len(rows), progress)
            done = _journaled(out)
        return _finish(out, rows, line_of, rejects, done, identity)


def _identity(job: ScoreJob) -> dict[str, Any]:
    return {
        "reward_model": model_hash(Path(job.reward_model)),
        "completions": sha256_file(job.completions),
        "max_tokens": job.max_tokens,
        "date": job.date,
        "dtype": job.dtype,
    }


def _claim(out: Path, identity: dict[str, Any]) -> None:
    path = out / "journal" / "identity.json"
    if not path.exists():
        atomic_write(path, json.dumps(identity))
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    different = [name for name, value in identity.items() if before.get(name) != value]
    if different:
        raise RewardError(
            f"{out} holds scores made with another {', '.join(different)}. Choose another --out, or remove the folder."
        )


def _read_completions(path: str) -> tuple[list[Row], dict[Key, int], list[Row]]:
    """Read rows with ids, the line of each, and rejects (`line`, `prompt_id`, `reason`) for what is no completion."""
    rejects: list[Row] = []
    numbered: list[tuple[int, Row]] = []
    for line, row in _lines(path):
        if isinstance(row, str):
            rejects.append({"line": line, "prompt_id": None, "reason": row})
        else:
            numbered.append((line, row))
    rows, dropped = with_ids(row for _, row in numbered)
    bad = {row["position"]: row for row in dropped}
    lines = [line for position, (line, _) in enumerate(numbered) if position not in bad]
    for position, row in bad.items():
        ids = {"prompt_id": row.get("prompt_id"), "sample_index": row.get("sample_index")}
        rejects.append({"line": numbered[position][0], **ids, "reason": row["drop_reason"]})
    return rows, {_key(row): line for row, line in zip(rows, lines, strict=True)}, rejects


def _lines(path: str) -> Iterator[tuple[int, Row | str]]:
    if Path(path).suffix == ".parquet":
        yield from enumerate(read_rows(path), start=1)
    else:
        yield from read_jsonl_lenient(path)


def _key(row: Mapping[str, Any]) -> Key:
    return row["prompt_id"], row["sample_index"], str(row.get("model"))


def _journaled(out: Path) -> dict[Key, Row]:
    done: dict[Key, Row] = {}
    for path in sorted((out / "journal").glob("*.jsonl")):
        with Journal(path) as journal:
            done.update((_key(entry), entry) for entry in journal.rows)
    return done


def _score_missing(job: ScoreJob, num_workers: int, num_rows: int, progress: Progress | None) -> None:
    if num_workers == 1:
        _score_shard(job, 0, 1, os.getppid(), progress)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        shards = [pool.submit(_score_shard, job, shard, num_workers, os.getpid()) for shard in range(num_workers)]
        try:
            _follow(shards, Path(job.out), num_rows, progress)
        except BrokenProcessPool as error:
            raise RewardError(
                f"a scoring worker died (out of memory, or killed). What was scored is in {job.out}: run the same "
                "command again, with fewer workers or a smaller batch if memory was short."
            ) from error


def _follow(shards: Sequence[Future[None]], out: Path, num_rows: int, progress: Progress | None) -> None:
    waiting: Iterable[Future[None]] = shards
    while waiting:
        finished, waiting = wait(waiting, timeout=1.0)
        for shard in finished:
            shard.result()
        if progress is not None:
            progress(sum(_count_lines(path) for path in (out / "journal").glob("*.jsonl")), num_rows)


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def _score_shard(job: ScoreJob, shard: int, num_shards: int, parent: int, progress: Progress | None = None) -> None:
    """Score the rows of one shard that no journal holds, and journal them batch by batch."""
    device = job.device
    if num_shards > 1:
        die_with_parent(parent)
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // num_shards))
        if device == "cuda":
            device = f"cuda:{shard % torch.cuda.device_count()}"
    out = Path(job.out)
    rows, _, _ = _read_completions(job.completions)
    mine = [row for row in rows if _shard_of(row, num_shards) == shard]
    done = _peek(out)
    missing = [row for row in mine if _key(row) not in done]
    if not missing:
        return
    tokenizer = load_tokenizer(job.reward_model)
    model = load_reward_model(job.reward_model, dtype=job.dtype, device=device)
    finished = len(mine) - len(missing)
    with Journal(out / "journal" / f"scores-{shard}.jsonl") as journal:
        for batch in iter_scores(missing, model, tokenizer, job.max_batch_tokens, job.max_tokens, job.date):
            journal.append({**_ids(missing[index]), **result} for index, result in batch)
            finished += len(batch)
            if progress is not None:
                progress(finished, len(mine))


def _shard_of(row: Mapping[str, Any], num_shards: int) -> int:
    # By prompt, so that the completions of a prompt meet in one worker, where they can share its keys and values.
    return int(content_hash(row["prompt_id"]), 16) % num_shards


def _peek(out: Path) -> set[Key]:
    """Read the keys in all journals; other workers are writing theirs, so a torn last line is left alone."""
    keys: set[Key] = set()
    for path in (out / "journal").glob("*.jsonl"):
        keys.update(_key(entry) for _, entry in read_jsonl_lenient(path) if not isinstance(entry, str))
    return keys


def _ids(row: Mapping[str, Any]) -> Row:
    return {"prompt_id": row["prompt_id"], "sample_index": row["sample_index"], "model": row.get("model")}


def _finish(
    out: Path,
    rows: list[Row],
    line_of: dict[Key, int],
    rejects: list[Row],
    done: dict[Key, Row],
    identity: dict[str, Any],
) -> dict[str, Any]:
    scored: list[Row] = []
    for row in rows:
        entry = done[_key(row)]
        if entry["score"] is None:
            rejects.append({"line": line_of[_key(row)], **_ids(row), "reason": entry["drop_reason"]})
        else:
            scored.append({**row, "score": entry["score"]})
    rejects.sort(key=lambda reject: reject["line"])
    summary = {
        "completions": len(scored) + len(rejects),
        "scored": len(scored),
        "rejects": len(rejects),
        "reasons": dict(Counter(reject["reason"].split(":")[0] for reject in rejects)),
        **identity,
    }
    write_jsonl(out / "scored.jsonl", scored)
    write_jsonl(out / "rejects.jsonl", rejects)
    atomic_write(out / "summary.json", json.dumps(summary, indent=2))
    return summary

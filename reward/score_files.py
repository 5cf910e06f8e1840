"""Score a file of completions: resumable after a kill, on one process or several."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.core.files import (
    Journal,
    atomic_write,
    file_lock,
    read_jsonl_lenient,
    read_rows,
    sha256_file,
    write_jsonl,
)
from posttrain.core.model_files import model_hash
from reward.errors import RewardError
from reward.ids import Row, with_ids
from reward.lifetime import die_with_parent
from reward.noise import noise_summary

Key = tuple[str, int, str]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ScoreJob:
    """What is scored by what; `dtype`, `device` and `max_batch_tokens` say how.

    Attributes:
        reward_model: Hugging Face folder of the reward model.
        completions: COMPLETION rows, JSON Lines or Parquet.
        out: folder for `scored.jsonl`, `rejects.jsonl`, `summary.json`.
        max_batch_tokens: tokens in a batch.
        max_tokens: longer rows are rejected; None is the model's context.
        date: the date that the chat template prints.
        dtype: of the body; the head is always float32.
        device: where the model runs; "cuda" spreads workers over the devices; "auto" for a Ray cluster only.
    """

    reward_model: str
    completions: str
    out: str
    max_batch_tokens: int = 8192
    max_tokens: int | None = None
    date: str | None = None
    dtype: str = "float32"
    device: str = "cpu"


def score_with_workers(
    job: ScoreJob, num_workers: int = 1, progress: Progress | None = None, ray_address: str | None = None
) -> dict[str, Any]:
    """Write `scored.jsonl` (the input's rows in order, with `score`), `rejects.jsonl` and `summary.json`.

    Scores go to journals in `out/journal` as they come. The same call after a kill scores only what is missing, with
    any number of workers, of this machine or of the Ray cluster at `ray_address`; after success it loads no model.

    Returns:
        The summary.

    Raises:
        RewardError: `out` belongs to another model or file, or a worker died (what was scored is kept).
        ClusterError: the cluster cannot be used.
        DataError, ModelError: the file or the model cannot be used.
    """
    out = Path(job.out)
    identity = _identity(job)
    with file_lock(out / "journal" / "lock"):
        _claim(out, identity)
        if (finished := _finished(out, identity)) is not None:
            return finished
        rows, line_of, rejects = read_completions(job.completions)
        done = _journaled(out)
        if any(key_of(row) not in done for row in rows):
            if ray_address is not None:
                from reward.score_ray import score_over_ray  # an optional extra

                score_over_ray(job, ray_address, num_workers, set(done), progress)
            else:
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


def _finished(out: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Return the summary, which is written last, where all the files of this request stand already."""
    names = ("scored.jsonl", "rejects.jsonl", "summary.json")
    if not all((out / name).exists() for name in names):
        return None
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return summary if summary.get("made_with") == identity else None


def read_completions(path: str) -> tuple[list[Row], dict[Key, int], list[Row]]:
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
    return rows, {key_of(row): line for row, line in zip(rows, lines, strict=True)}, rejects


def _lines(path: str) -> Iterator[tuple[int, Row | str]]:
    if Path(path).suffix == ".parquet":
        yield from enumerate(read_rows(path), start=1)
    else:
        yield from read_jsonl_lenient(path)


def key_of(row: Mapping[str, Any]) -> Key:
    return row["prompt_id"], row["sample_index"], str(row.get("model"))


def _journaled(out: Path) -> dict[Key, Row]:
    done: dict[Key, Row] = {}
    for path in sorted((out / "journal").glob("*.jsonl")):
        with Journal(path) as journal:
            done.update((key_of(entry), entry) for entry in journal.rows)
    return done


def _score_missing(job: ScoreJob, num_workers: int, num_rows: int, progress: Progress | None) -> None:
    if num_workers == 1:
        _score_shard(job, 0, 1, progress=progress)
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


def _score_shard(
    job: ScoreJob, shard: int, num_shards: int, parent: int | None = None, progress: Progress | None = None
) -> None:
    if parent is not None:
        die_with_parent(parent)
    # Here, not above: a parent that only waits for workers, or finds everything done, needs no torch.
    from reward.score_shard import score_shard

    score_shard(job, shard, num_shards, progress)


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


def ids_of(row: Mapping[str, Any]) -> Row:
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
        entry = done[key_of(row)]
        if entry["score"] is None:
            rejects.append({"line": line_of[key_of(row)], **ids_of(row), "reason": entry["drop_reason"]})
        else:
            scored.append({**row, "score": entry["score"]})
    rejects.sort(key=lambda reject: reject["line"])
    summary = {
        "completions": len(scored) + len(rejects),
        "scored": len(scored),
        "rejects": len(rejects),
        "reasons": dict(Counter(reject["reason"].split(":")[0] for reject in rejects)),
        **noise_summary(out, scored),
        "made_with": identity,
    }
    write_jsonl(out / "scored.jsonl", scored)
    write_jsonl(out / "rejects.jsonl", rejects)
    atomic_write(out / "summary.json", json.dumps(summary, indent=2))
    return summary

"""Public benchmarks on a checkpoint, by lm-evaluation-harness (an optional extra)."""

from __future__ import annotations

import difflib
import importlib.util
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.core.errors import DataError

Row = dict[str, Any]

log = logging.getLogger(__name__)

SETTINGS = ("num_fewshot", "limit", "chat_template", "dtype", "seed")
"""Columns of a row that decide its value besides the checkpoint and the task."""

MISSING = "lm-evaluation-harness is not installed: pip install 'posttrain[harness]'"


@dataclass(frozen=True)
class HarnessJob:
    """What is measured, and how.

    Attributes:
        tasks: names of tasks, groups or tags of the harness, or of `include_path`.
        include_path: folder with further tasks (YAML).
        limit: documents per task, the first ones; all when None.
        num_fewshot: solved examples before each question; as the task says when None.
        chat_template: put questions into the model's chat template.
        batch_size: documents of one forward pass.
        dtype: of the weights.
        device: where the model runs.
        seed: of the harness's drawing of examples.
    """

    tasks: Sequence[str]
    include_path: Path | None = None
    limit: int | None = None
    num_fewshot: int | None = None
    chat_template: bool = False
    batch_size: int = 8
    dtype: str = "float32"
    device: str = "cpu"
    seed: int = 0


def require_harness() -> None:
    """Refuse early, before a model is loaded, where the extra is not there.

    Raises:
        DataError: the harness is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise DataError(MISSING)


def run_harness(model_dir: Path, model: str, job: HarnessJob, artifact: str | None = None) -> list[Row]:
    """Run the harness on a checkpoint, which is loaded as all stages load it.

    Nothing is fetched where `HF_HUB_OFFLINE` is set; a task whose data is not on this machine then fails.

    Args:
        model_dir: a Hugging Face folder.
        model: the name that the rows carry.
        artifact: `stage/address` of the model in a run: the name may stand for another checkpoint tomorrow.

    Returns:
        Rows of `model`, `artifact`, `task`, `metric` (with the harness's filter after a comma, unless that is none),
        `value`, `stderr` (None where the harness gives none), and beside them `num_documents`, `num_cut` (documents
        whose question lost its beginning, being longer than the context), `dropped_settings` (sampling settings of the
        folder's generation_config.json that were not used), the settings that decide the value (`SETTINGS`), the
        `version` of the task and of the package (`harness`).

    Raises:
        DataError: the harness is not installed, there is no such task, or its data cannot be loaded.
    """
    require_harness()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    import lm_eval

    from posttrain.core.chat import load_tokenizer
    from posttrain.core.models import load_causal_lm
    from posttrain.core.row_angles import follows_length
    from posttrain.evaluate.harness_model import CountingModel, drop_settings

    manager = _find_tasks(job)  # before the model, which takes longer to load
    loaded = load_causal_lm(model_dir, job.dtype, job.device)
    dropped = drop_settings(loaded)
    batch_size = 1 if follows_length(loaded.config) else job.batch_size  # it gives no positions that tell rows apart
    wrapped = CountingModel(loaded, load_tokenizer(model_dir), batch_size)
    try:
        results = lm_eval.simple_evaluate(
            wrapped,
            tasks=list(job.tasks),
            num_fewshot=job.num_fewshot,
            limit=job.limit,
            apply_chat_template=job.chat_template,
            task_manager=manager,
            log_samples=False,
            random_seed=job.seed,
            numpy_random_seed=job.seed,
            torch_random_seed=job.seed,
            fewshot_random_seed=job.seed,
        )
    except (OSError, ValueError, AssertionError) as error:  # missing data sets, what a task says, no room for answers
        raise DataError(f"the harness cannot run {', '.join(job.tasks)}: {type(error).__name__}: {error}") from error
    rows = list(_rows(results, {"model": model, "artifact": artifact}, job, lm_eval.__version__, wrapped.cut))
    rows = [{**row, "dropped_settings": dropped} for row in rows]
    _warn(rows, dropped, wrapped.max_length)
    return rows


def _warn(rows: Sequence[Row], dropped: Mapping[str, Any], context: int) -> None:
    """Say what a reader of the numbers should know: questions that the model did not see whole, settings not used."""
    for task, row in {row["task"]: row for row in rows}.items():
        if row["num_cut"]:
            log.warning(
                "%s: %d of %s questions are longer than the model's context of %d tokens (with the room for their "
                "answers) and lost their beginning; its numbers are those of cut questions", task, row["num_cut"],
                row["num_documents"] or "the", context,
            )  # fmt: skip
    if dropped:
        told = ", ".join(f"{name} {value!r}" for name, value in sorted(dropped.items()))
        log.warning("the folder's generation_config.json is not used for decoding, as in `posttrain sample`: %s", told)


def _find_tasks(job: HarnessJob) -> Any:
    """Return the harness's task manager; its 14,000 own tasks take seconds to list, and are left out where they can be.

    Raises:
        DataError: a task is in neither place.
    """
    from lm_eval.tasks import TaskManager

    if job.include_path is not None:
        if not job.include_path.is_dir():
            raise DataError(f"--include-path {job.include_path} is no folder; give one that holds tasks as YAML")
        manager = TaskManager(include_path=str(job.include_path), include_defaults=False)
        if set(job.tasks) <= set(manager.all_tasks):
            return manager
    manager = TaskManager(include_path=None if job.include_path is None else str(job.include_path))
    unknown = [task for task in job.tasks if task not in manager.all_tasks]
    if unknown:
        near = {name: difflib.get_close_matches(name, manager.all_tasks, n=3) for name in unknown}
        told = "; ".join(
            f"'{name}'" + (f" (near: {', '.join(names)})" if names else "") for name, names in near.items()
        )
        raise DataError(f"the harness has no task {told}; `lm_eval ls tasks` lists them, --include-path adds a folder")
    return manager


def _rows(
    results: Mapping[str, Any], whose: Row, job: HarnessJob, version: str, cut: Mapping[str, int]
) -> Iterator[Row]:
    for task, numbers in results["results"].items():
        parts = results.get("group_subtasks", {}).get(task) or [task]
        for key, value in numbers.items():
            metric, comma, filter_name = key.partition(",")
            if not comma or metric.endswith("_stderr") or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            stderr = numbers.get(f"{metric}_stderr,{filter_name}")
            has_stderr = isinstance(stderr, int | float) and math.isfinite(stderr)
            yield {
                **whose,
                "task": task,
                "metric": metric if filter_name == "none" else key,
                "value": float(value),
                "stderr": float(stderr) if has_stderr else None,
                "num_documents": (results.get("n-samples", {}).get(task) or {}).get("effective"),
                "num_cut": sum(cut.get(part, 0) for part in parts),
                "num_fewshot": results.get("n-shot", {}).get(task),
                "limit": job.limit,
                "chat_template": job.chat_template,
                "dtype": job.dtype,
                "seed": job.seed,
                "version": str(results.get("versions", {}).get(task)),
                "harness": version,
            }


def merge_rows(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """Return old rows with new ones in place of those on the same checkpoint and task with the same settings."""
    replaced = {_question(row) for row in new}
    return [row for row in old if _question(row) not in replaced] + list(new)


def _question(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(key) for key in ("model", "artifact", "task", *SETTINGS))


def table(rows: Sequence[Row]) -> str:
    """Return rows as text for a terminal."""
    lines = [f"{'model':<22} {'task':<32} {'metric':<24} {'value':>9} {'stderr':>9} {'documents':>9} {'cut':>5}"]
    for row in rows:
        stderr = "–" if row["stderr"] is None else f"{row['stderr']:.4f}"
        documents = "–" if row.get("num_documents") is None else str(row["num_documents"])
        lines.append(
            f"{row['model']:<22} {row['task']:<32} {row['metric']:<24} {row['value']:>9.4f} {stderr:>9} {documents:>9} "
            f"{'–' if row.get('num_cut') is None else row['num_cut']:>5}"
        )
    return "\n".join(lines)

"""The table of stages: name, version, formats in and out, and the function that fills the directory.

A stage is a pure function of its inputs and config into one directory:

    function(call: StageCall, **config) -> metrics

Raise a stage's version by hand when its function gives another result for the same question. The functions live in
posttrain/steps/, one file per point of a round; this is the only place that imports them, and only when they run.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.config import Execution

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class StageCall:
    """What a stage gets besides its config.

    Attributes:
        inputs: Directories of the input artifacts by name: a path, or a list of paths.
        out: Directory to fill. It may hold what an interrupted run left.
        execution: How to run; never changes what comes out beyond rounding.
        template_date: Date that chat templates print.
        progress: Call with (done, total) now and then.
    """

    inputs: Mapping[str, Any]
    out: Path
    execution: Execution
    template_date: str | None
    progress: Progress


@dataclass(frozen=True)
class Stage:
    """A row of the table."""

    name: str
    version: int
    reads: str
    writes: str
    function: str

    def load(self) -> Callable[..., dict[str, Any]]:
        """Import the stage's function, with whatever heavy library its file needs."""
        module, _, name = self.function.partition(":")
        return getattr(importlib.import_module(module), name)


_ROWS = (
    # name              version  reads                             writes                     function
    ("practice_model", 1, "", "model", "models:practice_model"),
    ("source_prompts", 1, "PROMPT", "PROMPT", "prompts:source_prompts"),
    ("self_instruct", 2, "PROMPT, model", "PROMPT", "prompts:write_self_instruct"),
    ("magpie", 1, "model", "PROMPT", "prompts:write_magpie"),
    ("clean_prompts", 2, "PROMPT", "PROMPT", "prompts:clean_prompts"),
    ("sample", 3, "PROMPT, model", "COMPLETION", "sampling:sample"),
    ("label", 2, "COMPLETION", "PREFERENCE, RANKING", "annotate:label_completions"),
    ("label_file", 2, "PREFERENCE or RANKING, PROMPT", "PREFERENCE, RANKING", "annotate:label_file"),
    ("reward_model", 2, "model, PREFERENCE, RANKING", "model", "training:reward_model"),
    ("score", 3, "COMPLETION, model", "COMPLETION", "scoring:score"),
    ("select", 1, "COMPLETION", "COMPLETION, PREFERENCE", "scoring:select_rows"),
    ("gold", 1, "COMPLETION", "gold scores", "oracle:gold"),
    ("sft", 2, "model, COMPLETION", "model", "training:sft"),
    ("dpo", 2, "model, PREFERENCE", "model", "training:dpo"),
    ("average", 1, "model", "model", "training:average"),
    ("verify", 1, "COMPLETION", "COMPLETION", "evaluation:verify"),
    ("win_rate", 2, "COMPLETION, COMPLETION", "verdicts", "evaluation:win_rate_of_scores"),
    ("judged_win_rate", 2, "COMPLETION, COMPLETION, model", "verdicts", "judging:win_rate_of_judge"),
    ("drift", 2, "COMPLETION, COMPLETION, model", "drift", "drift:drift"),
    ("rate_answers", 2, "COMPLETION, model", "COMPLETION", "matrix:rate_answers"),
    ("matrix", 1, "COMPLETION", "verdicts, ratings", "matrix:matrix_of_scores"),
    ("judged_matrix", 1, "COMPLETION, model, verdicts", "verdicts, ratings", "matrix:matrix_of_judge"),
    ("labelled_matrix", 1, "COMPLETION", "verdicts, ratings", "matrix:matrix_of_labels"),
    ("agreement", 1, "verdicts", "agreement", "matrix:agree"),
    ("choose", 1, "verdicts", "decision", "evaluation:choose_average"),
    ("gate", 1, "verdicts", "decision", "evaluation:decide"),
    ("ratings", 2, "verdicts", "ratings", "evaluation:rate"),
)

STAGES: dict[str, Stage] = {
    name: Stage(name, version, reads, writes, f"posttrain.steps.{function}")
    for name, version, reads, writes, function in _ROWS
}

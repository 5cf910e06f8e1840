"""Export a model of a run as a plain Hugging Face folder, with a model card."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from posttrain.core.errors import DataError
from posttrain.core.files import atomic_directory, atomic_write
from posttrain.core.model_files import check_model_dir
from posttrain.kept import decisions
from posttrain.model_names import find_weights
from posttrain.report.collect import collect
from posttrain.report.model_card import model_card
from posttrain.runs import Run
from posttrain.store.artifacts import MANIFEST, Artifact

log = logging.getLogger(__name__)

# Ours, not a model's: how the stage went.
LEFT_OUT = (MANIFEST, "metrics.jsonl", "report.json")


def export_model(found: Run, name: str, out: Path) -> Path:
    """Copy `best`, `base`, `round_2`, `round_2/sft` or a student's model to a new folder.

    Raises:
        DataError: The run has no such model (those it has are listed), or the folder is there already.
    """
    model, artifact = find_weights(found, name)
    if out.exists():
        raise DataError(f"{out} exists already; choose another --out or remove it")
    if name == "best" and model.name == "base":
        why = "; ".join(f"round {row['round']}: {row['reason'] or 'not decided'}" for row in decisions(found))
        log.warning("NO ROUND WAS PROMOTED: what is exported as best is the base itself (%s)", why)
    with atomic_directory(out) as work:
        _copy(artifact, work)
        atomic_write(work / "README.md", model_card(collect(found), name.removeprefix("students/")))
    check_model_dir(out)
    return out


def _copy(artifact: Artifact, out: Path) -> None:
    for path in sorted(artifact.path.iterdir()):
        if path.is_file() and path.name not in LEFT_OUT:
            shutil.copyfile(path, out / path.name)

"""Experiment trackers that a training section may name, and whether they are installed. Loads no heavy library."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from posttrain.config import Tracker

MODULES: dict[Tracker, tuple[str, ...]] = {
    "trackio": ("trackio",),
    "wandb": ("wandb",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "mlflow": ("mlflow",),
    "swanlab": ("swanlab",),
}
"""Modules of each tracker, any of which will do; the first is also the name of the package."""


def missing_trackers(names: Iterable[str]) -> list[str]:
    """Return one fault for each tracker that is not installed; names that are none of ours are left to the schema."""
    return [
        f"the tracker {name} is not installed: pip install {modules[0]}, or take it out of report_to"
        for name, modules in ((name, MODULES.get(name)) for name in names)  # type: ignore[call-overload]
        if modules and not any(importlib.util.find_spec(module) for module in modules)
    ]

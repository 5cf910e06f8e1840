"""One self-contained HTML page per run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import PurePath
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from posttrain.report.blocks import MISSING, Section, plain_text
from posttrain.report.data import funnel_section, reward_model_section
from posttrain.report.drift import drift_section, harness_section
from posttrain.report.judges import judges_section
from posttrain.report.overview import overview_section
from posttrain.report.ratings import ratings_section
from posttrain.report.results import rounds_section, students_section
from posttrain.report.samples import samples_section
from posttrain.report.scores import best_of_k_section, rewards_section
from posttrain.report.setup import recipe_section, versions_section
from posttrain.report.times import time_section
from posttrain.report.training import curves_section

# The page, from top to bottom.
SECTIONS: tuple[Callable[[Mapping[str, Any]], Section], ...] = (
    overview_section,
    rounds_section,
    judges_section,
    ratings_section,
    drift_section,
    students_section,
    harness_section,
    time_section,
    funnel_section,
    best_of_k_section,
    rewards_section,
    reward_model_section,
    curves_section,
    samples_section,
    recipe_section,
    versions_section,
)


def build_report(run: Mapping[str, Any]) -> str:
    """Build the page of a run: it opens from disk, asks no network for anything, and stays under 5 MB.

    Every text is escaped by the template engine, and a content policy lets no script run but the page's own, so a
    sample that holds HTML is shown and does nothing. A part that is missing, as in a run under way, says so.

    Args:
        run: what ``posttrain report --json`` prints (interface.md), and where they are known:
            ``judges`` [{name, kind, main, trained_against}];
            ``matrix`` [{a, b, judge, win_rate, low, high, …}];
            ``ratings_by_judge`` {judge: [{model, rating, low, high}]};
            ``agreement`` [{judge_a, judge_b, num_pairs, agreement, kappa, ac1, low, high}];
            ``drift`` [{round, measure, value, threshold, alarm, reason}];
            ``harness`` [{model, task, metric, value, stderr, num_fewshot, limit, chat_template, dtype, seed}] and
            ``harness_left_out``, the numbers of other checkpoints;
            ``funnel`` {round: {written, cleaned, sampled, kept, trained, dropped: {reason: rows},
            steps: [{step, unit, rows, dropped}]}};
            ``rewards`` {round: [{low, high, count, kept, rejected}]};
            ``training`` {stage: [{step, loss, …}]};
            ``reward_model`` {round: {accuracy, …, by_strength, calibration: [{confidence, accuracy, count}]}};
            ``samples`` [{round, family, verdict, prompt, completions: [{text, score, gold, model}], chosen, rejected,
            gold}], where chosen and rejected are places in completions;
            ``best_of_k`` {k: score} or {picked by: {k: score}};
            ``best_of_k_gold`` {round: {picked: {k: gold}, oracle: {k: gold}, num_prompts}};
            ``gold_failures`` {round: why the verifier stopped};
            ``stages`` [{name, seconds, address, status}];
            ``config`` (or ``recipe``) resolved, ``recipe_text`` {text, overrides}, ``recipe_sources`` {field: text},
            ``versions``, ``seeds``, ``state``, ``lost`` (artifacts that are gone).
    """
    script = _file("page.js")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(_file("page.jinja")).render(
        # A run is named by its folder.
        name=plain_text(PurePath(str(run.get("run") or "run")).name),
        recipe=_recipe_name(run.get("recipe")),
        state=plain_text(run.get("state") or ""),
        sections=[section(run) for section in SECTIONS],
        style=Markup(_file("page.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return plain_text(page)


def _recipe_name(recipe: object) -> str:
    if isinstance(recipe, Mapping):
        recipe = recipe.get("name")
    return plain_text(recipe) if recipe else MISSING


def _file(name: str) -> str:
    return resources.files("posttrain.report").joinpath(name).read_text(encoding="utf-8")

"""Who decided the win rates, in words; said loudly where the judge also trained the policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def resolved_recipe(run: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give the resolved recipe of a run, under either of its names; empty where the run has none."""
    for key in ("config", "recipe"):
        if isinstance(run.get(key), Mapping):
            return run[key]
    return {}


def judge_sentence(run: Mapping[str, Any]) -> str | None:
    """Say who judged, from the recipe; None where the recipe does not say."""
    evaluate = resolved_recipe(run).get("evaluate")
    judge = evaluate.get("judge") if isinstance(evaluate, Mapping) else None
    if not isinstance(judge, Mapping):
        return None
    if judge.get("kind") == "verifier":
        return f"Judged by the verifier {judge.get('function')}; equal scores tie."
    if judge.get("kind") == "reward_model" and judge.get("model") is None:
        return (
            "CAUTION: judged by the reward model that the policy was trained against. Such win rates rise even where "
            "the answers get worse; trust them only beside another judge."
        )
    if judge.get("kind") == "reward_model":
        return f"Judged by the score of a reward model that trained nothing here: {_model(judge.get('model'))}."
    return f"Judged by a language model that reads both answers in both orders: {_model(judge.get('model'))}."


def _model(model: object) -> str:
    if not isinstance(model, Mapping):
        return str(model)
    named = model.get("repo") or model.get("model") or model.get("path") or model.get("kind")
    return f"{named} at {model['revision']}" if model.get("revision") else str(named)

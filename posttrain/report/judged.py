"""Who decided the win rates, in words; said loudly where the judge also trained the policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.evaluate.gate import caution
from posttrain.report.blocks import is_number


@dataclass(frozen=True)
class Judge:
    """A judge of the run: the gate's is `main`; `trained_against` says that the policy learned to please it."""

    name: str
    kind: str
    main: bool
    trained_against: bool


def judges_of(run: Mapping[str, Any]) -> list[Judge]:
    """List the run's judges, the gate's first; empty for a run that names none."""
    judges = [
        Judge(str(entry.get("name")), str(entry.get("kind") or ""), bool(entry.get("main")),
              bool(entry.get("trained_against")))
        for entry in run.get("judges") or []
    ]  # fmt: skip
    return sorted(judges, key=lambda judge: not judge.main)


def both_ways(entries: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Give the win rates of one judge by (A, B); a pair measured one way round is mirrored to fill the other."""
    measured = {(entry["a"], entry["b"]): entry for entry in entries if is_number(entry.get("win_rate"))}
    for (first, second), entry in list(measured.items()):
        measured.setdefault((second, first), mirrored(entry))
    return measured


def mirrored(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Give a comparison as seen from B: 1 - w, with what is known of either side changed over."""
    controlled = entry.get("length_controlled")
    left_out, other = entry.get("left_out"), {"a": "b", "b": "a"}
    swapped = {"wins": "losses", "losses": "wins", "mean_length_a": "mean_length_b", "mean_length_b": "mean_length_a"}
    return {
        **{key: entry[key] for key in ("judge", "num_pairs", "ties", "unreadable", "flip_rate") if key in entry},
        **{key: entry[other] for key, other in swapped.items() if other in entry},
        "a": entry.get("b"),
        "b": entry.get("a"),
        **_mirrored_rate(entry),
        **({"length_controlled": _mirrored_rate(controlled)} if controlled else {}),
        **({"left_out": {key[:-1] + other[key[-1]]: left_out[key] for key in left_out}} if left_out else {}),
    }


def _mirrored_rate(entry: Mapping[str, Any]) -> dict[str, float | None]:
    ends = {"win_rate": "win_rate", "low": "high", "high": "low"}
    return {key: 1.0 - entry[other] if is_number(entry.get(other)) else None for key, other in ends.items()}


def model_order(run: Mapping[str, Any]) -> list[str]:
    """List the run's models as a reader expects them: base, rounds as they came, teacher, students."""
    names = dict.fromkeys(
        str(name)
        for entry in [*(run.get("ratings") or []), *(run.get("matrix") or [])]
        for name in (entry.get("model"), entry.get("a"), entry.get("b"))
        if name
    )
    groups = ("base", "round_", "teacher", "students/")

    def key(name: str) -> tuple[int, int, int]:
        group = next((place for place, start in enumerate(groups) if name.startswith(start)), len(groups))
        digits = name.removeprefix("round_").partition("/")[0]
        # round_1/sft comes before round_1, the policy that was trained from it
        return group, int(digits) if group == 1 and digits.isdecimal() else 0, 0 if "/" in name else 1

    return sorted(names, key=key)


def shown_model(model: object) -> str:
    """Name a model for a reader."""
    shown = str(model).replace("/own_base", "'s own base")
    return shown.removeprefix("students/").replace("/sft", " after SFT").replace("round_", "round ")


def resolved_recipe(run: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give the resolved recipe of a run, under either of its names; empty where the run has none."""
    for key in ("config", "recipe"):
        if isinstance(run.get(key), Mapping):
            return run[key]
    return {}


def judge_sentence(run: Mapping[str, Any]) -> str | None:
    """Say who judged for the gate, from the recipe; None where the recipe does not say.

    Whether the policy was trained against the judge the run knows by content: a recipe may name one model twice.
    """
    evaluate = resolved_recipe(run).get("evaluate")
    judge = evaluate.get("judge") if isinstance(evaluate, Mapping) else None
    if not isinstance(judge, Mapping):
        return None
    kind, model = judge.get("kind"), _model(judge.get("model"))
    if kind == "verifier":
        return f"Judged by the verifier {judge.get('function')}; equal scores tie."
    if kind == "reward_model":
        if judge.get("model") is None or any(known.main and known.trained_against for known in judges_of(run)):
            return caution("the gate's judge")
        return f"Judged by the score of a reward model that trained nothing here: {model}."
    if kind == "rubric":
        scale = f"from {judge.get('lowest')} to {judge.get('highest')}"
        return f"Judged by a language model that rates one answer at a time, {scale}; equal ratings tie: {model}."
    return f"Judged by a language model that reads both answers in both orders: {model}."


def _model(model: object) -> str:
    if not isinstance(model, Mapping):
        return str(model)
    named = model.get("repo") or model.get("model") or model.get("path") or model.get("kind")
    return f"{named} at {model['revision']}" if model.get("revision") else str(named)

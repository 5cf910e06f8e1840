"""A run as a report sees it: realistic numbers, and texts that try to break the page."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

HOSTILE = '</pre></script><script>document.title = "broken"</script><img src=x onerror="document.title=1"> & "quotes"'


def rate(value: float, half: float, **more: Any) -> dict[str, Any]:
    controlled = {"win_rate": value - 0.02, "low": value - 0.02 - half, "high": value - 0.02 + half}
    return {
        "win_rate": value, "low": value - half, "high": value + half, "num_pairs": 200, "unreadable": 1,
        "length_controlled": controlled, **more,
    }  # fmt: skip


@pytest.fixture(scope="session")
def example_run() -> dict[str, Any]:
    """A run of three rounds, the last one held."""
    return make_run()


def make_run() -> dict[str, Any]:
    rounds = [
        {"round": 1, "promoted": True, "win_rate_vs_previous": rate(0.71, 0.06), "win_rate_vs_base": rate(0.71, 0.06),
         "reason": "Promoted: win rate 0.710 over the best so far; the win rate must reach 0.500."},
        {"round": 2, "promoted": True, "win_rate_vs_previous": rate(0.58, 0.065), "win_rate_vs_base": rate(0.77, 0.055),
         "reason": "Promoted: win rate 0.580 over the best so far; the win rate must reach 0.500."},
        {"round": 3, "promoted": False, "win_rate_vs_previous": rate(0.47, 0.07), "win_rate_vs_base": rate(0.75, 0.06),
         "reason": "Held: win rate 0.470 over the best so far; the win rate must reach 0.500."},
    ]  # fmt: skip
    counts = {"prompts": 600, "completions": 4000, "kept": 500, "dropped": 100, "sft_rows": 480, "pairs": 450}
    rounds = [entry | {"data": counts} for entry in rounds]
    models = {"base": 0.0, "round_1": 155.0, "round_2": 210.0, "round_3": 192.0, "student_small": -40.0}
    return {
        "recipe": "quickstart",
        "config": recipe(),
        "run": "runs/quickstart",
        "state": "finished",
        "rounds": rounds,
        "ratings": [
            {"model": name, "rating": points, "low": points - 35 * bool(points), "high": points + 35 * bool(points)}
            for name, points in models.items()
        ],
        "matrix": matrix(models),
        "students": [
            {"name": "student_small", "win_rate_vs_own_base": rate(0.8, 0.05), "win_rate_vs_teacher": rate(0.31, 0.06)}
        ],
        "seconds": {},
        "stages": stages(),
        "funnel": {number: funnel(number) for number in (1, 2, 3)},
        "reward_model": {number: reward_model(number) for number in (1, 2, 3)},
        "best_of_k": {
            "reward model": {1: 0.25, 2: 0.36, 4: 0.45, 8: 0.52, 16: 0.56},
            "gold verifier": {1: 0.25, 2: 0.41, 4: 0.56, 8: 0.7, 16: 0.79},
        },
        "training": {"round_1/sft": sft_curve(), "round_1/dpo": dpo_curve()},
        "samples": [sample(number) for number in range(60)],
        "versions": {"python": "3.11.9", "torch": "2.13.0", "transformers": "5.23.0", "trl": "1.16.0"},
    }


def recipe() -> dict[str, Any]:
    return {
        "name": "quickstart",
        "num_rounds": 3,
        "base": {"kind": "hub", "repo": "someone/base", "revision": "0" * 40},
        "evaluate": {"judge": {"kind": "verifier", "function": "world.py:verify"}},
        "seed": 7,
        "completions": {"num_completions": 8, "temperature": 1.0},
        "train": {"sft": {"learning_rate": 0.001, "epochs": 1}, "dpo": {"learning_rate": 0.0002, "beta": 0.1}},
        "prompts": {"generators": [{"kind": "magpie", "num_prompts": 600}]},
    }


def matrix(models: dict[str, float]) -> list[dict[str, Any]]:
    names = list(models)
    return [
        {"a": a, "b": b} | rate(1 / (1 + 10 ** ((models[b] - models[a]) / 400)), 0.05)
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    ]


def stages() -> list[dict[str, Any]]:
    names = ["annotate", "reward_model", "prompts", "completions", "scores", "select", "sft", "dpo", "eval"]
    times = [6.1, 21.0, 9.4, 31.2, 5.0, 0.3, 14.9, 24.4, 8.8]
    return [{"name": "base", "seconds": 118.0, "address": "practice_model/0a1b2c3d4e5f", "status": "finished"}] + [
        {"name": f"round_{r}/{n}", "seconds": t * (1 + r / 9), "address": f"{n}/{r}f9c2a1b7d04", "status": "finished"}
        for r in (1, 2, 3)
        for n, t in zip(names, times, strict=True)
    ]


def funnel(number: int) -> dict[str, Any]:
    return {
        "written": 600, "cleaned": 520 - 20 * number, "sampled": 8 * (520 - 20 * number), "kept": 3600 - 80 * number,
        "trained": 430 * number, "dropped": {"near duplicate": 60 + 10 * number, "not readable": 20, "cut": 350},
    }  # fmt: skip


def reward_model(number: int) -> dict[str, Any]:
    bins = [{"confidence": 0.55 + 0.1 * i, "accuracy": 0.53 + 0.095 * i, "count": 40 + i} for i in range(5)]
    return {
        "accuracy": 0.91 + 0.01 * number, "ece": 0.03, "length_only_accuracy": 0.55, "num_pairs": 300,
        "by_strength": {"significantly_better": 0.97, "better": 0.9, "slightly_better": 0.78}, "calibration": bins,
    }  # fmt: skip


def sft_curve() -> list[dict[str, Any]]:
    return [
        {"step": s, "loss": 2 * math.exp(-s / 60) + 0.6, "grad_norm": 1 / (1 + s / 40), "learning_rate": 1e-3}
        for s in range(1, 400)
    ]


def dpo_curve() -> list[dict[str, Any]]:
    return [
        {"step": s, "loss": 0.69 * math.exp(-s / 200), "rewards/accuracies": 1 - 0.5 * math.exp(-s / 30),
         "logps/chosen": -20 - s / 40, "logps/rejected": -22 - s / 10, "rewards/margins": s / 60, "kl": s / 50}
        for s in range(10, 200, 10)
    ]  # fmt: skip


def sample(number: int) -> dict[str, Any]:
    rng = random.Random(number)
    family = ["reverse", "larger", "sort"][number % 3]
    scores = [round(rng.uniform(-2, 2), 3) for _ in range(4)]
    text = HOSTILE if number == 5 else "the answer is : cat dog bird ."
    completions = [
        {"text": [{"role": "assistant", "content": text if i == 0 else f"well , i think {i} cats . sorry"}], "score": s}
        for i, s in enumerate(scores)
    ]
    return {
        "prompt_id": f"{number:016x}",
        "round": number % 3 + 1,
        "family": family,
        "verdict": "right" if number % 4 else "wrong",
        "prompt": [{"role": "user", "content": f"please {family} the words : bird dog cat ( item {number} )"}],
        "completions": completions,
        "chosen": scores.index(max(scores)),
        "rejected": scores.index(min(scores)),
        "gold": "the answer is : cat dog bird .",
    }

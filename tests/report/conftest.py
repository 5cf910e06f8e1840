"""A run as a report sees it: realistic numbers, and texts that try to break the page."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from posttrain.report.build import build_report

HOSTILE = '</pre></script><script>document.title = "broken"</script><img src=x onerror="document.title=1"> & "quotes"'


def rate(value: float, half: float, **more: Any) -> dict[str, Any]:
    controlled = {"win_rate": value - 0.02, "low": value - 0.02 - half, "high": value - 0.02 + half}
    return {
        "win_rate": value, "low": value - half, "high": value + half, "num_pairs": 200, "unreadable": 1,
        "length_controlled": controlled, **more,
    }  # fmt: skip


@pytest.fixture(scope="session")
def page(example_run: dict[str, Any]) -> str:
    """The page of that run."""
    return build_report(example_run)


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
    strengths = STRENGTHS["gold"]
    return {
        "recipe": "quickstart",
        "config": recipe(),
        "recipe_text": {"text": RECIPE_TEXT, "overrides": ["train.dpo.beta=0.1"]},
        "recipe_sources": {"train.dpo.beta": "Strength of the pull to the reference. – L3 4.1.4"},
        "run": "runs/quickstart",
        "state": "finished",
        "rounds": rounds,
        "judges": JUDGES,
        "ratings": ratings(strengths),
        "ratings_by_judge": {name: ratings(models) for name, models in STRENGTHS.items()},
        "matrix": [entry for judge in STRENGTHS for entry in matrix(judge)],
        "mean_scores": {"gold": {"base": 0.41, "round_3": 0.78}, "own_reward_model": {"round_3": 2.5, "base": -0.4}},
        "agreement": [
            {"judge_a": "gold", "judge_b": "own_reward_model", "num_pairs": 2100, "agreement": 0.71, "kappa": 0.44,
             "ac1": 0.47, "low": 0.43, "high": 0.51},
            {"judge_a": "gold", "judge_b": "reader", "num_pairs": 2060, "agreement": 0.82, "kappa": 0.63,
             "ac1": 0.66, "low": 0.62, "high": 0.7},
        ],
        "drift": [entry for number in (1, 2, 3) for entry in drift(number)],
        "harness": [
            {"model": "base", "task": "hellaswag", "metric": "acc_norm", "value": 0.312, "stderr": 0.005},
            {"model": "round_2", "task": "hellaswag", "metric": "acc_norm", "value": 0.319, "stderr": 0.005,
             "num_fewshot": 5, "limit": None, "chat_template": True, "dtype": "float32", "seed": 0},
        ],
        "students": [
            {"name": "small", "win_rate_vs_own_base": rate(0.8, 0.05), "win_rate_vs_teacher": rate(0.31, 0.06)}
        ],
        "seconds": {},
        "stages": stages(),
        "funnel": {number: funnel(number) for number in (1, 2, 3)},
        "trained_on": [
            {"round": number, "source": source, "model": "5f1d0c2b9a7e4d36", "sft_rows": rows, "pairs": rows - 15}
            for number in (1, 2, 3) for source, rows in (("magpie", 390), ("self_instruct", 90))
        ],
        "reward_model": {number: reward_model(number) for number in (1, 2, 3)},
        "rewards": {str(number): rewards(number) for number in (1, 2, 3)},
        "best_of_k": {f"round {number}": {1: 0.2, 2: 0.9, 4: 1.5, 8: 2.0 + number / 5} for number in (1, 2, 3)},
        "best_of_k_gold": {
            str(number): {
                "picked": {1: 0.25 * number, 2: 0.36, 4: 0.45, 8: 0.52},
                "oracle": {1: 0.25 * number, 2: 0.48, 4: 0.66, 8: 0.79},
                "num_prompts": 400,
            }
            for number in (1, 2, 3)
        },
        "training": {"round_1/sft": sft_curve(), "round_1/dpo": dpo_curve()},
        "samples": [sample(number) for number in range(60)] + [held_out(number) for number in range(12)],
        "versions": {"python": "3.11.9", "torch": "2.13.0", "transformers": "5.23.0", "trl": "1.16.0"},
    }  # fmt: skip


JUDGES = [
    {"name": "own_reward_model", "kind": "reward_model", "main": False, "trained_against": True},
    {"name": "gold", "kind": "verifier", "main": True, "trained_against": False},
    {"name": "reader", "kind": "llm", "main": False, "trained_against": False},
]
STRENGTHS = {  # ratings by each judge; the reward model goes on rising where the gold score falls
    "gold": {"base": 0.0, "round_1/sft": 120.0, "round_1": 155.0, "round_2": 210.0, "round_3": 192.0,
             "students/small": -40.0},
    "own_reward_model": {"base": 0.0, "round_1/sft": 160.0, "round_1": 230.0, "round_2": 340.0, "round_3": 460.0,
                         "students/small": 20.0},
    "reader": {"base": 0.0, "round_1/sft": 90.0, "round_1": 130.0, "round_2": 180.0, "round_3": 185.0,
               "students/small": -15.0},
}  # fmt: skip
RECIPE_TEXT = """name: quickstart
train:
  dpo:
    learning_rate: 2.0e-4
    beta: 0.1                 # L3 4.1.4
"""


def ratings(models: dict[str, float]) -> list[dict[str, Any]]:
    return [
        {"model": name, "rating": points, "low": points - 35 * bool(points), "high": points + 35 * bool(points)}
        for name, points in models.items()
    ]


def drift(number: int) -> list[dict[str, Any]]:
    values = {
        "kl_from_base": (0.08 * number, 0.2), "mean_length_ratio": (1 + 0.1 * number, 1.5),
        "distinct_share": (0.97 - 0.02 * number, 0.5), "refusal_share": (0.01, 0.1),
        "language_shift": (0.02 * number, 0.2), "truncated_share": (0.005 * number, 0.05),
    }  # fmt: skip
    return [
        {"round": number, "measure": measure, "value": value, "threshold": threshold,
         "alarm": measure == "kl_from_base" and value > threshold,
         "reason": f"kl_from_base is {value:.3f}, above its threshold of 0.2"
         if measure == "kl_from_base" and value > threshold else ""}
        for measure, (value, threshold) in values.items()
    ]  # fmt: skip


def rewards(number: int) -> list[dict[str, Any]]:
    """Bells around 0 (all), 2 (kept) and -1.5 (rejected)."""
    bins = []
    for place in range(30):
        low = -6 + 0.4 * place
        bell = {
            name: int(size * math.exp(-((low - middle) ** 2) / 4))
            for name, size, middle in (("count", 400, number / 3), ("kept", 70, 2), ("rejected", 70, -1.5))
        }
        bins.append({"low": low, "high": low + 0.4, **bell})
    return bins  # fmt: skip


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


def matrix(judge: str) -> list[dict[str, Any]]:
    """Every pair by one judge: the odds of the ratings' differences."""
    models = STRENGTHS[judge]
    names = list(models)
    more: dict[str, Any] = {"wins": 120, "ties": 11, "losses": 69, "mean_length_a": 31.4, "mean_length_b": 28.9}
    if judge == "reader":
        more["flip_rate"] = 0.08
    return [
        {"a": a, "b": b, "judge": judge} | rate(1 / (1 + 10 ** ((models[b] - models[a]) / 400)), 0.05) | more
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
        "trained": 430 * number, "dropped": {"near duplicate": 60 + 10 * number, "not readable": 20},
        "steps": [
            {"step": "written", "unit": "prompts", "rows": 600, "dropped": {}},
            {"step": "cleaned", "unit": "prompts", "rows": 520 - 20 * number,
             "dropped": {"near duplicate": 60 + 10 * number, "not readable": 20}},
            {"step": "sampled", "unit": "samples", "rows": 8 * (520 - 20 * number), "dropped": {}},
            {"step": "kept", "unit": "SFT rows", "rows": 480, "dropped": {"not_selected": 3000, "truncated": 350}},
            {"step": "paired", "unit": "pairs", "rows": 430, "dropped": {}},
            {"step": "trained", "unit": "SFT rows", "rows": 480 * number, "dropped": {}},
        ],
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
        "kind": "training samples",
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


def held_out(number: int) -> dict[str, Any]:
    return {
        "kind": "held-out answers",
        "prompt_id": f"eval{number:012x}",
        "round": number % 3 + 1,
        "family": "sort",
        "verdict": ["win", "tie", "loss"][number // 3 % 3],
        "prompt": [{"role": "user", "content": f"please sort the words : bird dog cat ( held out {number} )"}],
        "completions": [
            {
                "text": "the answer is : bird cat dog .",
                "score": 1.0,
                "model": f"round_{number % 3 + 1}",
                "side": "a",
                "count": 3,
            },
            {"text": "bird cat . sorry", "score": 0.15, "model": "base", "side": "b"},
        ],
    }

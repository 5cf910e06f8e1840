"""A run of two rounds made by hand, small enough to count on one's fingers, in a real artifact store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain.core.files import write_jsonl
from posttrain.runs import Run
from posttrain.store.artifacts import Artifact, ArtifactStore
from posttrain.store.fingerprint import identity
from reward.preferences import label
from reward.select import select


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


class MadeRun:
    """Put artifacts into a store one by one, and name them as a run does."""

    def __init__(self, root: Path) -> None:
        self.store = ArtifactStore(root)
        self.record: dict[str, Any] = {"recipe": "made", "state": "finished", "stages": [], "names": {}, "planned": []}

    def add(
        self,
        label: str,
        stage: str,
        inputs: Mapping[str, Any] | None = None,
        files: Mapping[str, list[dict[str, Any]]] | None = None,
        metrics: Mapping[str, Any] | None = None,
        **config: Any,
    ) -> Artifact:
        references = {
            key: value.reference if isinstance(value, Artifact) else [item.reference for item in value]
            for key, value in (inputs or {}).items()
        }

        def fill(out: Path) -> Mapping[str, Any]:
            for name, rows in (files or {}).items():
                write_jsonl(out / f"{name}.jsonl", rows)
            return metrics or {}

        asked = identity(stage, 1, {**config, "label": label}, references)
        artifact = self.store.build(asked, fill, {})
        row = {
            "label": label,
            "stage": stage,
            "address": artifact.address,
            "status": "ran",
            "started": 0.0,
            "seconds": 1,
        }
        self.record["stages"].append(row)
        self.alias(label, artifact)
        return artifact

    def alias(self, label: str, artifact: Artifact) -> None:
        self.record["names"][label] = {"reference": artifact.reference, "path": None}

    def run(self) -> Run:
        return Run("made", self.store.root / "runs" / "made", self.record, self.store)


SAMPLING = {"num_completions": 3, "temperature": 1.0}


def sampled(prompt_id: str, text: str, model: str, number: int, count: int = 3) -> list[dict[str, Any]]:
    prompt = {"prompt_id": prompt_id, "prompt": user(text), "source": "self_instruct", "round": number, "model": model}
    return [
        prompt | {"sample_index": i, "completion": answer(f"{text} {i}"), "finish_reason": "stop", "seed": 7 + i}
        for i in range(count)
    ]


def make(root: Path) -> MadeRun:
    """Make the run: two seeds, four prompts written in round 1 and one in round 2, three samples of each.

    Round 1 keeps `aaaaaa01` and `aaaaaa02`, drops a near duplicate and a prompt that is too long. Scores of samples 0,
    1, 2 are 1, 3, 2, so sample 1 is the best and sample 0 the worst. Labels of round 2 rank its policy's answers.
    """
    made = MadeRun(root)
    base = made.add("base/model", "practice_model")
    held_out = made.add(
        "eval_prompts", "source_prompts", files={"prompts": [{"prompt_id": "heldout1", "prompt": user("h")}]}
    )
    seeds = [{"prompt_id": f"seed000{n}", "prompt": user(f"seed {n}"), "source": "file"} for n in (1, 2)]
    seed_prompts = made.add("seed_prompts", "source_prompts", files={"prompts": seeds}, source={"kind": "file"})
    base_answers = made.add(
        "base/eval/completions",
        "sample",
        {"prompts": [held_out], "model": base},
        {"completions": sampled("heldout1", "h", "hash-base", 0, 1)},
        sampling=SAMPLING,
        round=0,
    )
    policy, selections, cleaned = base, [], []
    for number, names in ((1, ["aaaaaa01", "aaaaaa02"]), (2, ["bbbbbb01"])):
        at, model = f"round_{number}", f"hash-{'base' if number == 1 else 'one'}"
        rows = [{"prompt_id": name, "prompt": user(name), "source": "self_instruct", "round": number} for name in names]
        rows = [row | {"request": 4, "demonstrations": ["seed0002", "seed0001"]} for row in rows]
        poor = [rows[0] | {"prompt_id": f"poor000{n}{number}"} for n in (1, 2)]
        written = made.add(
            f"{at}/prompts/self_instruct_1",
            "self_instruct",
            {"model": policy, "seeds": seed_prompts, "known": cleaned},
            {"prompts": [*rows, *poor], "dropped": [rows[0] | {"prompt_id": "empty001", "drop_reason": "empty"}]},
            generator={"kind": "self_instruct", "num_demonstrations": 2},
            content="practice",
        )
        near = poor[0] | {"drop_reason": "near_duplicate", "duplicate_of": names[0], "similarity": 0.75}
        clean = made.add(
            f"{at}/prompts/clean",
            "clean_prompts",
            {"written": [written], "known": cleaned},
            {"prompts": rows, "dropped": [near, poor[1] | {"drop_reason": "too_long: 99 > 64"}]},
            round=number,
        )
        cleaned = [*cleaned, clean]
        samples = [row for name in names for row in sampled(name, name, model, number)]
        completions = made.add(
            f"{at}/completions/policy",
            "sample",
            {"prompts": [clean], "model": policy},
            {"completions": samples},
            sampling=SAMPLING,
            round=number,
        )
        inputs: dict[str, Any] = {"model": base, "preferences": []}
        if number == 2:
            judged = [row | {"score": float(row["sample_index"])} for row in samples]
            labels = label(judged, (0.6, 0.4, 0.2, 0.05), edited={"bbbbbb01": "better"})
            files = {"rankings": labels.rankings, "preferences": labels.preferences, "dropped": labels.dropped}
            inputs["preferences"] = [
                made.add("round_2/annotate/labels", "label", {"completions": [completions]}, files)
            ]
        reward_model = made.add(f"{at}/reward_model", "reward_model", inputs)
        scored = [row | {"score": [1.0, 3.0, 2.0][row["sample_index"]]} for row in samples]
        scores = made.add(
            f"{at}/scores", "score", {"completions": [completions], "reward_model": reward_model}, {"scored": scored}
        )
        chosen = select(scored)
        files = {"sft": chosen.sft, "pairs": chosen.pairs, "dropped": chosen.dropped}
        selections.append(
            made.add(f"{at}/select", "select", {"scored": scores}, files, selection={"rule": "best_of_k"})
        )
        sft = made.add(f"{at}/sft", "sft", {"model": base, "selected": selections})
        policy = made.add(f"{at}/dpo", "dpo", {"model": sft, "selected": selections[-1:]})
        made.alias(f"{at}/policy", policy)
        answers = made.add(
            f"{at}/eval/completions",
            "sample",
            {"prompts": [held_out], "model": policy},
            {"completions": sampled("heldout1", "h", f"hash-{number}", 0, 1)},
            sampling=SAMPLING,
            round=0,
        )
        made.add(
            f"{at}/eval/win_rate_vs_base",
            "judged_win_rate",
            {"a": answers, "b": base_answers},
            {"verdicts": [{"prompt_id": "heldout1", "preference": 1.0, "length_a": 3, "length_b": 3}]},
            {"names": [at, "base"]},
            judge={"kind": "llm", "model": {"path": "judge"}},
        )
    return made

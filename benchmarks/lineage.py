"""How long does `posttrain trace` take on a run with a million samples? Both ways, the start of Python included.

The run is made by the real loop (`posttrain.rounds`) and the real artifact store, in two rounds; stages that would need
a model write rows of the usual size instead, selection is the real one. Each command is then a process of its own, on a
warm file cache. The claim is that each takes less than two seconds.

    python benchmarks/lineage.py [--num-prompts 125000] [--num-completions 4] [--runs 5] [--root DIR]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from posttrain.core.files import read_jsonl, write_jsonl
from posttrain.core.formats import prompt_id
from posttrain.recipe import load_recipe
from posttrain.rounds import run_recipe
from posttrain.runner import Executor, Planner
from posttrain.stages import STAGES, Progress, Stage, StageCall
from posttrain.store.artifacts import ArtifactStore
from reward.preferences import label
from reward.select import select

MOST_SECONDS = 2.0
PROMPT_WORDS, COMPLETION_WORDS = 20, 60
ROWS_AT_ONCE = 4_000
RECIPE = """\
name: big
num_rounds: 2
base: {{kind: practice}}
annotate:
  annotator: {{kind: verifier, function: "posttrain.practice.world:verify"}}
  prompts: {{kind: practice, num_prompts: {num_seeds}}}
reward_model: {{kind: train, epochs: 1}}
prompts:
  seed_prompts: {{kind: practice, num_prompts: {num_seeds}}}
  generators: [{{kind: magpie, num_prompts: {num_written}}}]
  num_prompts: {num_written}
completions: {{num_completions: {num_completions}}}
train:
  sft: {{epochs: 1}}
  dpo: {{epochs: 1}}
evaluate:
  prompts: {{kind: practice, num_prompts: {num_seeds}, held_out: true}}
  judge: {{kind: verifier, function: "posttrain.practice.world:verify"}}
"""
_WORDS = [hashlib.sha256(str(number).encode()).hexdigest()[: 3 + number % 6] for number in range(4_096)]
_RATE = {"win_rate": 0.6, "low": 0.5, "high": 0.7, "num_pairs": 4, "wins": 2, "ties": 1, "losses": 1, "unreadable": 0}


def make_run(root: Path, num_prompts: int, num_completions: int) -> None:
    """Carry out a recipe of two rounds of `num_prompts` kept prompts, with stages that write rows without a model."""
    recipe_file = root / "big.yaml"
    written = num_prompts * 10 // 9 + 1  # the cleaning drops a tenth
    root.mkdir(parents=True, exist_ok=True)
    recipe_file.write_text(
        RECIPE.format(num_written=written, num_completions=num_completions, num_seeds=min(1_000, num_prompts))
    )
    real = dict(STAGES)
    for name, stage in real.items():
        STAGES[name] = _Synthetic(stage.name, stage.version, stage.reads, stage.writes, stage.function)
    try:
        recipe = load_recipe(recipe_file, [])
        store = ArtifactStore(root)
        planner = Planner(store, recipe.template_date)
        run_recipe(recipe, planner)
        executor = Executor(store, root / "runs" / recipe.name, recipe, _Quiet())
        executor.record.begin(recipe, planner.stages)
        run_recipe(recipe, executor)
        executor.record.end("finished")
    finally:
        STAGES.update(real)


class _Quiet:
    def started(self, label: str, name: str) -> Progress:
        return lambda done, total: None

    def finished(self, label: str, name: str, status: str, seconds: float) -> None:
        pass


class _Synthetic(Stage):
    def load(self) -> Callable[..., dict[str, Any]]:
        made: Callable[..., dict[str, Any]] = _MAKERS.get(self.name, _other)
        return lambda call, **config: made(call, self.name, **config)


def _text(key: str, words: int) -> str:
    return " ".join(random.Random(key).choices(_WORDS, k=words))


def _prompts(call: StageCall, name: str, seed: int, round: int = 0, **config: Any) -> dict[str, Any]:
    count = (config.get("generator") or config["source"]).num_prompts

    def rows() -> Iterator[dict[str, Any]]:
        for index in range(count):
            messages = [{"role": "user", "content": _text(f"{name}:{seed}:{index}", PROMPT_WORDS)}]
            row = {"prompt": messages, "prompt_id": prompt_id(messages), "source": name, "round": round}
            yield {**row, "sample_index": index, "seed": seed + index}

    write_jsonl(call.out / "prompts.jsonl", rows())
    return {"num_prompts": count}


def _clean(call: StageCall, name: str, **config: Any) -> dict[str, Any]:
    rows = [row for path in call.inputs["written"] for _, row in read_jsonl(path / "prompts.jsonl")]
    write_jsonl(call.out / "prompts.jsonl", (row for number, row in enumerate(rows) if number % 10))
    write_jsonl(call.out / "dropped.jsonl", ({**row, "drop_reason": "too_long: 99 > 64"} for row in rows[::10]))
    return {"num_prompts": len(rows) - len(rows[::10])}


def _sample(
    call: StageCall, name: str, sampling: dict[str, Any], seed: int, round: int, **config: Any
) -> dict[str, Any]:
    model = hashlib.sha256(str(call.inputs["model"]).encode()).hexdigest()[:16]

    def rows() -> Iterator[dict[str, Any]]:
        for path in call.inputs["prompts"]:
            for _, row in read_jsonl(path / "prompts.jsonl"):
                for index in range(sampling["num_completions"]):
                    text = _text(f"{seed}:{row['prompt_id']}:{index}", COMPLETION_WORDS)
                    yield {
                        **row,
                        "sample_index": index,
                        "completion": [{"role": "assistant", "content": text}],
                        "finish_reason": "stop",
                        "num_tokens": COMPLETION_WORDS,
                        "seed": seed + index,
                        "round": round,
                        "model": model,
                    }

    write_jsonl(call.out / "completions.jsonl", rows())
    return {}


def _score(call: StageCall, name: str, **config: Any) -> dict[str, Any]:
    given = call.inputs["completions"]

    def rows() -> Iterator[dict[str, Any]]:
        for path in given if isinstance(given, list) else [given]:
            for _, row in read_jsonl(path / "completions.jsonl"):
                yield {**row, "score": random.Random(row["completion"][0]["content"]).gauss(0.0, 1.0)}

    write_jsonl(call.out / "scored.jsonl", rows())
    return {}


def _select(call: StageCall, name: str, selection: Any, seed: int) -> dict[str, Any]:
    """Select a few thousand rows at a time, all of a prompt's together, so that memory stays small."""
    rows = (row for _, row in read_jsonl(call.inputs["scored"] / "scored.jsonl"))
    with (
        open(call.out / "sft.jsonl", "w") as sft,
        open(call.out / "pairs.jsonl", "w") as pairs,
        open(call.out / "dropped.jsonl", "w") as dropped,
    ):
        while block := list(islice(rows, ROWS_AT_ONCE)):
            last = block[-1]["prompt_id"]
            for row in rows:
                if row["prompt_id"] != last:
                    held = [row]
                    break
                block.append(row)
            else:
                held = []
            rows = _chain(held, rows)
            chosen = select(block, rule=selection.rule, margin=selection.margin, seed=seed)
            for file, found in ((sft, chosen.sft), (pairs, chosen.pairs), (dropped, chosen.dropped)):
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
    return {}


def _chain(held: list[dict[str, Any]], rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield from held
    yield from rows


def _label(call: StageCall, name: str, round: int, strengths: Any, min_strength: str, **config: Any) -> dict[str, Any]:
    rows = [row for path in call.inputs["completions"] for _, row in read_jsonl(path / "completions.jsonl")]
    scored = [{**row, "score": random.Random(row["completion"][0]["content"]).random()} for row in rows]
    labels = label(scored, strengths, min_strength)
    for file in ("rankings", "preferences", "dropped"):
        write_jsonl(call.out / f"{file}.jsonl", ({**row, "round": round} for row in getattr(labels, file)))
    return labels.summary


def _win_rate(call: StageCall, name: str, names: list[str], **config: Any) -> dict[str, Any]:
    rows = [row for _, row in read_jsonl(call.inputs["a"] / "scored.jsonl")]
    write_jsonl(call.out / "verdicts.jsonl", ({"prompt_id": row["prompt_id"], "preference": 1.0} for row in rows))
    (call.out / "win_rate.json").write_text(json.dumps({**_RATE, "names": names}))
    return {**_RATE, "names": names}


def _other(call: StageCall, name: str, **config: Any) -> dict[str, Any]:
    (call.out / "made").write_text(name)
    return {"promoted": True}


_MAKERS: dict[str, Any] = {
    **{"source_prompts": _prompts, "magpie": _prompts, "clean_prompts": _clean, "sample": _sample},
    **{"score": _score, "verify": _score, "select": _select, "label": _label, "win_rate": _win_rate},
}


def seconds_of(*arguments: str) -> float:
    """Run a command once and return its seconds by the clock."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "posttrain.cli", *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def size_of(root: Path) -> tuple[int, int]:
    """Return the rows of all artifacts, and their bytes."""
    files = [path for path in root.glob("artifacts/*/*/*.jsonl")]
    rows = 0
    for path in files:
        with open(path, "rb") as file:
            rows += sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 24), b""))
    return rows, sum(path.stat().st_size for path in files)


def measure(root: Path, num_runs: int) -> bool:
    """Time every command and print the verdicts."""
    with open(root / "runs" / "big" / "round_1" / "select" / "pairs.jsonl", "rb") as file:
        ids = [json.loads(line)["prompt_id"] for line in islice(file, 0, 10_000 * num_runs, 10_000)]
    ids = (ids * num_runs)[:num_runs]
    out = str(root / "rows.parquet")
    commands: dict[str, list[list[str]]] = {
        "a row": [["trace", "big", name] for name in ids],
        "a row by the beginning of its id": [["trace", "big", name[:12]] for name in ids],
        "a row, --json": [["trace", "big", name, "--json"] for name in ids],
        "--model round_2": [["trace", "big", "--model", "round_2"]] * num_runs,
        "--model round_2 --out rows.parquet": [["trace", "big", "--model", "round_2", "--out", out]] * num_runs,
    }
    good = True
    for name, lines in commands.items():
        took = [seconds_of(*line, "--root", str(root)) for line in lines]
        most = max(took)
        good = good and most < MOST_SECONDS
        verdict = "PASS" if most < MOST_SECONDS else "FAIL"
        print(f"{verdict}: {name}: {statistics.median(took):.2f} s, most {most:.2f} s, of {len(took)} runs", flush=True)
    text = seconds_of("trace", "big", "--model", "round_2", "--out", out, "--text", "--root", str(root))
    print(f"with --text, which reads the rows themselves: {text:.2f} s, {Path(out).stat().st_size / 1e6:.0f} MB")
    index = root / "artifacts" / ".lineage"
    print(f"indexes: {sum(path.stat().st_size for path in index.iterdir()) / 1e6:.0f} MB")
    shutil.rmtree(index)
    print(f"a first trace that has to build them all: {seconds_of('trace', 'big', ids[0], '--root', str(root)):.1f} s")
    return good


def main() -> int:
    """Make the run, measure, and return 1 where the claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-prompts", type=int, default=125_000, help="kept per round, of two rounds")
    parser.add_argument("--num-completions", type=int, default=4, help="per prompt")
    parser.add_argument("--runs", type=int, default=5, help="of each command")
    parser.add_argument("--root", help="folder for the run, kept; where it holds the run it is taken as it is")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(args.root or folder)
        if not (root / "runs" / "big" / "run.json").exists():
            started = time.perf_counter()
            make_run(root, args.num_prompts, args.num_completions)
            print(f"made in {time.perf_counter() - started:.0f} s")
        rows, size = size_of(root)
        samples = 2 * args.num_prompts * args.num_completions
        load = os.getloadavg()[0]
        print(f"{samples:,} samples; {rows:,} rows in {size / 1e9:.2f} GB; load here {load:.1f}", flush=True)
        return 0 if measure(root, args.runs) else 1


if __name__ == "__main__":
    sys.exit(main())

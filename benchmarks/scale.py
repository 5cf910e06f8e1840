"""Does a row cost the same whatever their number? `posttrain sample` on 1,000, 10,000 and 100,000 short prompts.

Each run is the real command in a process of its own, with the scripted engine's `echo` in the model's place, so that
what is timed is all that stands around a model: reading, checking, journals, writing. What a run of a single prompt
takes (start-up, mostly imports) stands before each run and is subtracted from it. The sizes take turns; medians count.
The verdict is on the processor's seconds, since a run of 1,000 rows is mostly start-up and a neighbour on the machine
moves the clock by more than what is measured; the clock's ratio stands beside it.

    python benchmarks/scale.py [--runs 5] [--num-completions 4]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

SIZES = (1_000, 10_000, 100_000)
# A run of the least size is mostly start-up, so it is repeated most.
REPEATS = {1_000: 10, 10_000: 3, 100_000: 1}
# What counts as constant and as flat. Rows held in memory took 170 MB more at 100,000.
MOST_DEVIATION = 0.2
MOST_MEGABYTES = 20.0


@dataclass(frozen=True)
class Run:
    """Hold what one process took: seconds by the clock, seconds of processor, peak resident memory.

    The system counts the memory of the process that starts another as the other's, so this file imports little.
    """

    wall: float
    cpu: float
    megabytes: float


def write_prompts(path: Path, count: int) -> Path:
    """Write `count` prompts of ten words."""
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            row = {"prompt": f"please tell me about thing number {i:06} in short", "id": f"q{i}"}
            file.write(json.dumps(row) + "\n")
    return path


def sample(prompts: Path, num_completions: int) -> Run:
    """Run the command once, into a folder that is thrown away."""
    with tempfile.TemporaryDirectory(dir=prompts.parent) as out:
        options = {
            **{"engine": "scripted", "model": "echo", "prompts": prompts, "num-completions": num_completions},
            **{"temperature": 1.0, "max-completion-tokens": 64, "seed": 7, "out": out},
        }
        line = [
            sys.executable,
            "-m",
            "posttrain.cli",
            "sample",
            *(f"--{key}={value}" for key, value in options.items()),
        ]
        quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
        started = time.perf_counter()
        process = os.posix_spawn(sys.executable, line, os.environ, file_actions=quiet)
        _, status, usage = os.wait4(process, 0)
        wall = time.perf_counter() - started
    if status:
        raise SystemExit(f"{' '.join(line)} ended with status {status}")
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def measure(folder: Path, num_rounds: int, num_completions: int) -> dict[int, list[tuple[Run, Run]]]:
    """Run the sizes in turn; return by size the pairs of a run and the single prompt's run before it."""
    prompts = {size: write_prompts(folder / f"{size}.jsonl", size) for size in (1, *SIZES)}
    sample(prompts[1_000], num_completions)  # warms the disk's cache
    pairs: dict[int, list[tuple[Run, Run]]] = {size: [] for size in SIZES}
    for _ in range(num_rounds):
        for size in SIZES:
            for _ in range(REPEATS[size]):
                start = sample(prompts[1], num_completions)
                pairs[size].append((sample(prompts[size], num_completions), start))
    return pairs


def report(pairs: dict[int, list[tuple[Run, Run]]]) -> bool:
    """Print the table and the verdicts."""
    print(" prompts  runs  µs/prompt   least    most  of 1,000  cpu µs  of 1,000  peak MB")
    wall, cpu, peak = {}, {}, {}
    for size in SIZES:
        walls = [(run.wall - start.wall) / size * 1e6 for run, start in pairs[size]]
        wall[size] = statistics.median(walls)
        cpu[size] = statistics.median((run.cpu - start.cpu) / size * 1e6 for run, start in pairs[size])
        peak[size] = statistics.median(run.megabytes for run, _ in pairs[size])
        print(
            f"{size:>8,} {len(walls):>5} {wall[size]:>10.1f} {min(walls):>7.1f} {max(walls):>7.1f} "
            f"{wall[size] / wall[SIZES[0]]:>9.2f} {cpu[size]:>7.1f} {cpu[size] / cpu[SIZES[0]]:>9.2f} "
            f"{peak[size]:>8.1f}"
        )
    starts = [start for size in SIZES for _, start in pairs[size]]
    print(f"subtracted: {statistics.median(start.wall for start in starts):.3f} s, a run of one prompt")
    growth = peak[SIZES[-1]] - peak[SIZES[0]]
    flat = _verdict(growth <= MOST_MEGABYTES, f"memory flat, {growth:.1f} MB more at 100,000 prompts than at 1,000")
    constant = _verdict(_constant(cpu), f"processor time per prompt within {MOST_DEVIATION:.0%} of that at 1,000")
    _verdict(_constant(wall), f"the same by the clock, for a quiet machine (load here: {os.getloadavg()[0]:.1f})")
    return flat and constant


def _constant(cost: dict[int, float]) -> bool:
    return all(abs(cost[size] / cost[SIZES[0]] - 1) <= MOST_DEVIATION for size in SIZES)


def _verdict(good: bool, claim: str) -> bool:
    print(f"{'PASS' if good else 'FAIL'}: {claim}")
    return good


def main() -> int:
    """Measure, print, and return 1 where the claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="of the largest size; smaller ones are run more often")
    parser.add_argument("--num-completions", type=int, default=4)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return 0 if report(measure(Path(folder), args.runs, args.num_completions)) else 1


if __name__ == "__main__":
    sys.exit(main())

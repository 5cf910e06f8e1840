"""Run `posttrain sample --engine scripted` in processes of its own, with a script that writes down every call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SCRIPT = """\
import os, time

LOG = os.open(os.environ["CALLS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def answer(request, sample_index, seed):
    os.write(LOG, f"{request.key} {sample_index}\\n".encode())
    time.sleep(float(os.environ["SECONDS"]))
    return f"{request.messages[-1]['content']} {sample_index} {seed}"
"""

Names = list[tuple[str, int]]


class Bench:
    """Hold a folder with prompts q0, q1, … and a script; start the command on them.

    A sample takes `seconds`; `calls` is every sample that any process asked the script for.
    """

    def __init__(self, folder: Path, num_prompts: int, num_completions: int, seconds: float = 0.0) -> None:
        self.folder, self.num_prompts, self.num_completions = folder, num_prompts, num_completions
        self.prompts, self.script = folder / "prompts.jsonl", folder / "script.py"
        rows = ({"prompt": f"question {i}", "id": f"q{i}"} for i in range(num_prompts))
        self.prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.script.write_text(SCRIPT)
        self.environment = {**os.environ, "CALLS": str(folder / "calls"), "SECONDS": str(seconds)}

    def arguments(self, out: Path, workers: int = 1) -> list[str]:
        """Return the arguments of the command."""
        options = {
            **{"model": f"{self.script}:answer", "prompts": self.prompts, "num-completions": self.num_completions},
            **{"temperature": 1.0, "max-completion-tokens": 16, "seed": 7, "out": out, "workers": workers},
        }
        return ["sample", "--engine", "scripted", *(f"--{name}={value}" for name, value in options.items())]

    def start(self, out: Path, workers: int = 1, **more: Any) -> subprocess.Popen[bytes]:
        """Start the command."""
        line = [sys.executable, "-m", "posttrain.cli", *self.arguments(out, workers)]
        return subprocess.Popen(line, env=self.environment, stdout=subprocess.DEVNULL, **more)

    def run(self, out: Path, workers: int = 1, **more: Any) -> tuple[int, str]:
        """Run the command to its end; return its exit code and what it said on standard error."""
        with self.start(out, workers, stderr=subprocess.PIPE, **more) as process:
            _, said = process.communicate(timeout=120)
        return process.returncode, said.decode()

    def calls(self) -> Names:
        """List the samples that the script was asked for, in order."""
        path = self.folder / "calls"
        return [_name(line.split()) for line in path.read_text().splitlines()] if path.exists() else []

    def forget_calls(self) -> None:
        """Empty the list of calls."""
        (self.folder / "calls").write_text("")

    def wanted(self) -> Names:
        """List every sample that is to be there, in order."""
        return [(f"q{i}", k) for i in range(self.num_prompts) for k in range(self.num_completions)]


def journaled(out: Path) -> Names:
    """List the samples in whole lines of the journals."""
    whole = b"".join(path.read_bytes().rpartition(b"\n")[0] + b"\n" for path in (out / "journal").glob("*.jsonl"))
    return names_of(whole.splitlines())


def names_of(lines: Iterable[bytes | str]) -> Names:
    """List the samples of JSON lines."""
    return [_name((row["prompt_id"], row["sample_index"])) for row in map(json.loads, filter(None, lines))]


def _name(pair: Any) -> tuple[str, int]:
    return pair[0], int(pair[1])

"""The command status: where a run is, once or until it ends."""

from __future__ import annotations

import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from posttrain.core.errors import PosttrainError
from posttrain.core.files import is_locked
from posttrain.progress import clock, progress_text, read_progress, since
from posttrain.runs import LOCK, Run, find_run, run_folder

LOOK_SECONDS = 0.5
LINE_SECONDS = 10.0
"""Between two lines on one stage where the output is no terminal."""


class RunStopped(PosttrainError, RuntimeError):
    """Report a watched run that ended before it was finished."""


def status(args: Namespace) -> None:
    """Print where a run is, stage by stage; with --watch go on until it ends.

    Raises:
        RunStopped: With --watch, the run failed, was interrupted, or its process is gone.
    """
    if not args.watch:
        print("\n".join(status_lines(find_run(args.run, Path(args.root)))))
        return
    found = _wait_for(args.run, Path(args.root))
    show = _Screen() if sys.stdout.isatty() else _Lines()
    while True:
        show.see(found)
        if _has_ended(found):
            break
        time.sleep(LOOK_SECONDS)
        found = find_run(args.run, Path(args.root))
    show.end(found)
    if found.state != "finished":
        raise RunStopped(_why_it_stopped(found))


def status_lines(found: Run) -> list[str]:
    """Return a line per stage, planned ones included, and a last one on the run."""
    done = {row["label"]: row for row in found.record["stages"]}
    lines = []
    for planned in found.record["planned"]:
        row = done.pop(planned["label"], None)
        lines.append(_stage_line(found, row) if row else f"{'waiting':<11} {planned['label']}")
    lines += [_stage_line(found, row) for row in done.values()]  # a gate that held changes the stages after it
    return [*lines, *_run_lines(found)]


def _stage_line(found: Run, row: dict[str, Any]) -> str:
    """Return a line on a stage; one that was running when its process was killed is interrupted too."""
    status, seconds = row["status"], row["seconds"]
    told = ""
    if status == "running" and found.state == "running":
        seconds = time.time() - row["started"]
        progress = read_progress(found.folder, row)
        told = progress_text(progress) if progress else ""
    elif status == "running":
        status = found.state
    shown = f"{seconds:>8.1f} s" if status in ("running", "ran", "failed") else ""
    return f"{status:<11} {row['label']:<44} {shown}{f'  {told}' if told else ''}".rstrip()


def _run_lines(found: Run) -> list[str]:
    """Return `quickstart: running`, and while it is, the stages done and the time left."""
    line = f"{found.record['recipe']}: {found.state}"
    if found.state != "running":
        return [line]
    rows = found.record["stages"]
    num_done = sum(row["status"] in ("hit", "ran") for row in rows)
    parts = [f"{num_done} of {max(len(found.record['planned']), len(rows))} stages"]
    progress = next(filter(None, (read_progress(found.folder, row) for row in _running(found))), None)
    if progress is not None and progress.run_left is not None:
        least = "at least " if progress.is_least else ""
        parts.append(f"run {least}{clock(since(progress.run_left, progress))} left")
    return [" · ".join(parts), line]


def _running(found: Run) -> list[dict[str, Any]]:
    return [row for row in found.record["stages"] if row["status"] == "running"]


def _wait_for(name: str, root: Path) -> Run:
    """Return the run as soon as its folder holds a record."""
    told = False
    while run_folder(name, root) is None:
        if not told:
            print(f"there is no run '{name}' in {root / 'runs'} yet; waiting for it", file=sys.stderr, flush=True)
            told = True
        time.sleep(LOOK_SECONDS)
    return find_run(name, root)


def _has_ended(found: Run) -> bool:
    """Tell whether nobody is working on the run any more."""
    if found.state == "running":
        return False
    if found.record["state"] == "running":
        # It may have ended between our looks at its record and at its lock: the record then says how.
        time.sleep(LOOK_SECONDS)
        return find_run(str(found.folder), found.folder.parent.parent).record["state"] == "running"
    # A lock on a run that stopped is held by a next command, which has not written its record yet.
    return found.state == "finished" or not is_locked(found.folder / LOCK)


def _why_it_stopped(found: Run) -> str:
    if found.record["state"] == "running":
        return f"process {found.record['pid']} is gone; run again to go on"
    broken = [row["label"] for row in found.record["stages"] if row["status"] in ("failed", "interrupted")]
    where = f" at {', '.join(broken)}" if broken else ""
    return f"run {found.name} {'failed' if found.state == 'failed' else 'was interrupted'}{where}; run again to go on"


class _Screen:
    """Draw the stages anew in place, as many as the terminal has room for."""

    def __init__(self) -> None:
        self._height = 0

    def see(self, found: Run) -> None:
        width, height = shutil.get_terminal_size()
        lines = _fitted([line[: width - 1] for line in status_lines(found)], max(8, height - 1))
        back = f"\x1b[{self._height}A\r" if self._height else ""
        print(back + "\x1b[J" + "\n".join(lines), flush=True)
        self._height = len(lines)

    def end(self, found: Run) -> None:
        self.see(found)


def _fitted(lines: Sequence[str], height: int) -> list[str]:
    """Return the lines around the running stage, and how many are left out above and below."""
    if len(lines) <= height:
        return list(lines)
    end = 2 if lines[-1].endswith(": running") else 1
    stages = lines[:-end]
    room = height - end - 2
    still = (number for number, line in enumerate(stages) if line.startswith(("running", "waiting")))
    first = max(0, min(next(still, len(stages)) - room // 2, len(stages) - room))
    below = len(stages) - first - room
    return [
        *([f"… {first} stages above"] if first else []),
        *stages[first : first + room],
        *([f"… {below} stages below"] if below else []),
        *lines[-end:],
    ]


class _Lines:
    """Print a line for every change, for logs and pipes."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {}
        self._told_at = 0.0

    def see(self, found: Run) -> None:
        for line in self._news(found):
            print(line, flush=True)

    def _news(self, found: Run) -> Iterator[str]:
        now = time.time()
        for row in found.record["stages"]:
            is_new = self._told.get(row["label"]) != row["status"]
            if is_new or (row["status"] == "running" and now - self._told_at >= LINE_SECONDS):
                self._told[row["label"]] = row["status"]
                self._told_at = now
                yield _stage_line(found, row)

    def end(self, found: Run) -> None:
        self.see(found)
        print("\n".join(_run_lines(found)), flush=True)

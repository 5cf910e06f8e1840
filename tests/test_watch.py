"""What another terminal sees of a run: progress on disk, rates, time left, and how the run ended."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_commands import Bench, bench  # noqa: F401  (the fixture)

from posttrain.commands.status import _fitted
from posttrain.progress import FILE, Pace, StageProgress, clock, progress_text, read_progress
from posttrain.store.artifacts import Artifact, ArtifactStore
from posttrain.watch import LiveWatcher

TINY = Path(__file__).parent / "tiny_recipe.yaml"


def watch(root: Path, name: str = "small", **options) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "posttrain.cli", "status", name, "--watch", "--root", str(root)]
    return subprocess.Popen(command, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options})


# ------------------------------------------------------------------------------------------- rates and times


def test_a_rate_is_that_of_the_last_minute_and_forgets_what_was_there_before():
    pace = Pace()
    pace.see(500, 0.0)  # an interrupted command had done these
    assert pace.rate is None
    pace.see(520, 10.0)
    assert pace.rate == 2.0
    for second in range(20, 101, 10):
        pace.see(520 + 5 * (second - 10), float(second))  # 5 a second from then on
    assert pace.rate == 5.0  # from 40 s to 100 s


def test_reports_without_work_between_them_are_no_rate():
    pace = Pace()
    for now in (0.0, 1.0, 2.0):
        pace.see(4, now)
    assert pace.rate is None


def test_text_of_progress_counts_down_since_it_was_written():
    progress = StageProgress("round_1/sft", "steps", 0.0, 100, 400, 2.5, 120.0, 300.0, False, 1000.0)
    assert progress_text(progress, now=1040.0) == "100 of 400 steps (25%) · 2.5 steps/s · 80 s left"  # 120 less 40
    assert progress_text(progress, now=2000.0).endswith(" · 0 s left")
    unknown = StageProgress("round_1/select", "rows", 0.0, None, None, None, None, None, True, 1000.0)
    assert progress_text(unknown) == ""
    assert [clock(seconds) for seconds in (89.0, 120.0, 5400.0)] == ["89 s", "2 min", "1.5 h"]


def planned(*stages: tuple[str, str]) -> list[dict]:
    """Return planned stages that train on 100 rows each."""
    metrics = {"metrics": {"num_rows": 100}}
    return [
        {
            "label": label,
            "stage": stage,
            "address": label,
            "status": "run",
            "artifact": Artifact(stage, label, Path(), metrics),
        }
        for label, stage in stages
    ]


def test_watcher_writes_where_it_is_and_what_is_left(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    stages = planned(("round_1/sft", "sft"), ("round_1/dpo", "dpo"), ("round_2/sft", "sft"))
    watcher = LiveWatcher(stages, ArtifactStore(tmp_path), tmp_path, io.StringIO())

    def left() -> dict:
        return json.loads((tmp_path / FILE).read_text())

    progress = watcher.started("round_1/sft", "sft")
    assert (left()["done"], left()["left"], left()["run_left"]) == (None, None, None)  # nothing like it was measured
    progress(0, 40)
    now[0] += 5.0
    progress(10, 40)
    told = left()
    # 2 steps a second: 30 more take 15 s; of the other two stages nothing is known.
    assert (told["unit"], told["done"], told["total"], told["rate"], told["left"]) == ("steps", 10, 40, 2.0, 15.0)
    assert (told["run_left"], told["is_least"]) == (15.0, True)
    progress(11, 40)  # at once: not written
    assert left()["done"] == 10
    watcher.finished("round_1/sft", "sft", "ran", 20.0)
    assert not (tmp_path / FILE).exists()
    watcher.started("round_1/dpo", "dpo")
    assert (left()["run_left"], left()["is_least"]) == (20.0, True)  # as many rows as the first SFT; DPO is unknown
    watcher.finished("round_1/dpo", "dpo", "ran", 7.0)
    watcher.started("round_2/sft", "sft")
    assert (left()["left"], left()["run_left"], left()["is_least"]) == (20.0, 20.0, False)


def test_progress_of_another_stage_or_version_is_not_shown(tmp_path):
    row = {"label": "round_1/sft", "started": 100.0}
    assert read_progress(tmp_path, row) is None
    state = {"label": "round_1/sft", "unit": "steps", "begun": 100.1, "done": 1, "total": 2, "rate": None}
    state |= {"left": None, "run_left": None, "is_least": True, "updated": 101.0}
    (tmp_path / FILE).write_text(json.dumps(state))
    assert read_progress(tmp_path, row) == StageProgress(**state)
    assert read_progress(tmp_path, row | {"label": "round_1/dpo"}) is None
    assert read_progress(tmp_path, row | {"started": 200.0}) is None  # left by a command that was killed
    (tmp_path / FILE).write_text(json.dumps(state | {"more": 1}))
    assert read_progress(tmp_path, row) is None


def test_a_screen_shows_what_is_around_the_running_stage():
    lines = [
        *(f"ran {n}" for n in range(40)),
        "running x",
        *(f"waiting {n}" for n in range(40)),
        "41 of 81",
        "r: running",
    ]
    shown = _fitted(lines, 14)
    assert len(shown) == 14
    assert shown[0] == "… 35 stages above" and shown[-3] == "… 36 stages below"  # room for 10, five of them before it
    assert shown[6] == "running x" and shown[-1] == "r: running"
    assert _fitted(lines[-14:], 14) == lines[-14:]
    assert _fitted(lines[40:], 14)[:2] == ["running x", "waiting 0"]  # nothing above, nothing to say of it


# ------------------------------------------------------------------------------------------- the command


def test_watch_waits_for_a_run_that_has_not_begun_and_ends_with_it(bench, monkeypatch):  # noqa: F811
    watching = watch(bench.root)
    assert watching.stderr is not None
    assert "there is no run 'small'" in watching.stderr.readline()
    running = bench.start()
    assert running.wait(60) == 0
    out, err = watching.communicate(timeout=120)
    assert (watching.returncode, err) == (0, "")
    lines = out.splitlines()
    assert lines[-1] == "small: finished"
    ran = [line.split()[1] for line in lines if line.startswith("ran ")]
    assert ran[0] == "base/model" and ran[-1] == "evaluation/verifier/matrix"
    assert len(ran) == len(set(ran)) == sum(row["status"] == "ran" for row in bench.record["stages"])


def test_watch_says_that_the_process_is_gone(bench):  # noqa: F811
    running = bench.start(TRIVIAL_WAIT="sft")
    bench.wait_for("sft")
    watching = watch(bench.root)
    assert watching.stdout is not None
    while "running     round_1/sft" not in (line := watching.stdout.readline()):
        assert line, "the watch ended early"
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=120)
    out, err = watching.communicate(timeout=120)
    assert watching.returncode == 1
    assert out.endswith("small: interrupted\n")
    assert err == f"posttrain status: process {running.pid} is gone; run again to go on\n"


def test_watch_says_where_a_run_failed(bench, monkeypatch):  # noqa: F811
    monkeypatch.setenv("TRIVIAL_ERROR", "sft")
    with pytest.raises(MemoryError):
        bench.call("run")
    watching = watch(bench.root)
    _, err = watching.communicate(timeout=120)
    assert (watching.returncode, err) == (1, "posttrain status: run small failed at round_1/sft; run again to go on\n")


def test_ctrl_c_ends_the_watch_and_not_the_run(bench):  # noqa: F811
    running = bench.start(TRIVIAL_WAIT="sft")
    bench.wait_for("sft")
    code = "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from posttrain.cli import main\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "status", "small", "--watch", "--root", str(bench.root)]
    watching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert watching.stdout is not None and watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=120)
    assert watching.returncode == 130 and "Traceback" not in err
    assert running.poll() is None
    running.kill()
    running.communicate(timeout=120)


@pytest.mark.slow
def test_a_real_run_is_redrawn_on_a_terminal_with_rate_and_time_left(tmp_path):
    """The tiny recipe with a base that takes a while; it is killed as soon as its rate was seen."""
    command = [sys.executable, "-m", "posttrain.cli", "run", str(TINY), "base.steps=20000", "--root", str(tmp_path)]
    ours, theirs = pty.openpty()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "140", "LINES": "24"}
    watching = watch(tmp_path, "tiny", stdout=theirs, env=environment)
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    os.close(theirs)
    seen = b""
    while part := _read(ours):
        seen += part
        if b" steps/s" in seen:
            running.kill()
    os.close(ours)
    running.wait(20)
    _, err = watching.communicate(timeout=120)
    assert watching.returncode == 1
    assert err.endswith(f"posttrain status: process {running.pid} is gone; run again to go on\n")
    screens = seen.decode().replace("\r\n", "\n").split("\x1b[J")[1:]
    assert len(screens) >= 3
    assert all(len(screen.splitlines()) <= 24 for screen in screens)
    told = next(line for screen in screens for line in screen.splitlines() if " steps/s" in line)
    assert re.match(r"running +base/model +[\d.]+ s  [\d,]+ of 20,000 steps \(\d+%\) · [\d.,]+ steps/s · .* left", told)
    assert re.search(r"\n0 of \d+ stages · run at least .* left\ntiny: running", seen.decode().replace("\r\n", "\n"))
    assert screens[-1].endswith("tiny: interrupted\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # the other end was closed
        return b""

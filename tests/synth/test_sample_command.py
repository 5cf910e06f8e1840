"""`posttrain sample` as a process: every sample once, whatever kills it and however full the disk."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import textwrap
import time

import pytest
from sample_command import Bench, journaled, names_of

from posttrain.cli import main
from posttrain.core.files import read_rows


@pytest.mark.slow
def test_twenty_kills_and_changing_numbers_of_workers_lose_and_repeat_nothing(tmp_path):
    bench = Bench(tmp_path, num_prompts=150, num_completions=4, seconds=0.002)
    out, draw, num_calls = tmp_path / "out", random.Random(0), 0
    numbers = [1, 2, 1, 3] * 5
    for number in numbers:
        done = journaled(out)
        assert len(done) == len(set(done))
        bench.forget_calls()
        process = bench.start(out, number)
        while process.poll() is None and not bench.calls():
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.04))
        process.kill()
        process.wait()
        num_calls += len(asked := bench.calls())
        assert not set(asked) & set(done), "a finished sample was asked for again"
        assert set(done) <= set(journaled(out))
    assert not (out / "summary.json").exists(), "the kills came too late to test anything"
    bench.forget_calls()
    assert bench.run(out, workers=2) == (0, "")
    num_calls += len(bench.calls())
    rows = (out / "completions.jsonl").read_text().splitlines()
    assert names_of(rows) == bench.wanted()
    # 150 × 4 samples, and one more for each worker that was killed while the script thought about one.
    assert 600 <= num_calls <= 600 + sum(numbers)
    bench.environment["SECONDS"] = "0"
    assert bench.run(tmp_path / "undisturbed") == (0, "")
    assert (tmp_path / "undisturbed/completions.jsonl").read_text().splitlines() == rows


# A process forked from one that has imported everything already, so that hundreds of kills take seconds. The hook
# kills it for good, as `kill -9` does, before the file operation with a given number: opening, renaming, cutting.
KILLED_AT_EVERY_OPERATION = """
    import json, os, signal, sys
    import posttrain.commands.files, posttrain.scripted
    from posttrain.cli import main

    operations = {"open", "os.rename", "os.truncate", "os.remove", "os.rmdir", "shutil.rmtree"}

    def run(arguments, kill_at):
        child = os.fork()
        if child == 0:
            out, count = arguments[-1], [0]

            def hook(event, values):
                if event in operations and str(values[0]).startswith(out):
                    count[0] += 1
                    if count[0] == kill_at:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(hook)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os._exit(main(arguments))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    *arguments, folder = sys.argv[1:]
    codes = []
    for number in range(1, 1000):
        out = f"{folder}/{number}"
        code = run([*arguments, "--out", out], number)
        left = sorted(os.listdir(out)) if os.path.isdir(out) else []
        codes.append((code, left, run([*arguments, "--out", out], 0)))
        if code == 0:
            break
    print(json.dumps(codes))
"""


def test_a_kill_before_any_file_operation_is_made_good(tmp_path):
    bench = Bench(tmp_path, num_prompts=3, num_completions=2)
    arguments = [item for item in bench.arguments(tmp_path) if not item.startswith("--out")]
    program = [sys.executable, "-c", textwrap.dedent(KILLED_AT_EVERY_OPERATION), *arguments, str(tmp_path / "outs")]
    done = subprocess.run(program, env=bench.environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    codes = json.loads(done.stdout)
    assert [code for code, _, _ in codes] == [-9] * (len(codes) - 1) + [0]
    assert {again for _, _, again in codes} == {0}
    left = [set(names) for _, names, _ in codes]
    # Among them is the kill between completions.jsonl and summary.json.
    assert any("completions.jsonl" in names and "summary.json" not in names for names in left)
    texts = {(tmp_path / f"outs/{number}/completions.jsonl").read_bytes() for number in range(1, len(codes) + 1)}
    assert len(texts) == 1 and names_of(texts.pop().splitlines()) == bench.wanted()
    assert len(codes) > 20
    # Six samples for each folder: no kill stood between an answer and its line in the journal, so none was repeated.
    assert len(bench.calls()) == 6 * len(codes)
    for number in range(1, len(codes) + 1):
        names = {path.name for path in (tmp_path / f"outs/{number}").iterdir()}
        assert names == {"completions.jsonl", "rejects.jsonl", "request.json", "summary.json"}


@pytest.fixture
def small_disk(tmp_path):
    """Give a folder, a function that makes its disk so many bytes large, and options for the process that fills it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "posttrain-test", folder], capture_output=True
    ).returncode:
        # No right to mount: limit the size of files instead; the system says EFBIG where a disk says ENOSPC.
        limit = [0]
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        options = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit[0], hard))}
        yield folder, lambda size: limit.__setitem__(0, size), options
        return
    try:
        yield folder, lambda size: subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True), {}
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_a_clear_error_and_work_goes_on_once_there_is_room(tmp_path, small_disk):
    """400 samples: some 50 kB of journal and 100 kB of completions."""
    bench = Bench(tmp_path, num_prompts=200, num_completions=2)
    disk, resize, options = small_disk
    out, num_calls = disk / "out", []
    # 32 kB end in the journal, 96 kB while the completions are written from it (of files alone: 64 kB).
    for size, full in ((32_768, "samples.jsonl"), (96_000 if not options else 65_536, "completions.jsonl")):
        resize(size)
        code, said = bench.run(out, **options)
        assert code == 1 and "no room to write" in said and full in said, said
        assert "Free some space and run the same command again" in said and "Traceback" not in said
        assert not (out / "completions.jsonl").exists()
        kept = journaled(out)
        assert len(kept) == len(set(kept)) > 0
        num_calls.append(len(bench.calls()))
    assert num_calls[0] < 400
    # The one sample that found no room was asked for twice, every other once.
    assert num_calls[1] == 401
    resize(10_000_000)
    assert bench.run(out, **options) == (0, "")
    assert names_of((out / "completions.jsonl").read_text().splitlines()) == bench.wanted()
    assert len(bench.calls()) == 401


# VmHWM and not what `wait4` reports, which counts the memory of the process that started this one.
PEAK = """
    import sys
    from posttrain.cli import main
    assert main(sys.argv[1:]) == 0
    print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
def test_memory_hardly_grows_with_the_prompts(tmp_path):
    """Held as rows, 19,000 more prompts and their progress took 35 MB more."""
    peaks = []
    for count in (1_000, 20_000):
        (tmp_path / str(count)).mkdir()
        bench = Bench(tmp_path / str(count), count, num_completions=2)
        program = [sys.executable, "-c", textwrap.dedent(PEAK), *bench.arguments(tmp_path / str(count) / "out")]
        said = subprocess.run(program, env=bench.environment, check=True, capture_output=True, text=True).stdout
        peaks.append(int(said.split()[-1]) / 1024)
    assert peaks[0] < 60 and peaks[1] - peaks[0] < 10, f"peak memory in MB: {peaks}"


def test_echo_needs_no_model_and_no_torch_and_repeats_itself(tmp_path):
    bench = Bench(tmp_path, num_prompts=5, num_completions=3)
    program = (
        "import sys; from posttrain.cli import main; code = main(sys.argv[1:]); "
        "sys.exit(code or sum(name in sys.modules for name in ('torch', 'transformers', 'numpy')))"
    )
    texts = []
    for name in ("a", "b"):
        arguments = [
            "--model=echo" if item.startswith("--model") else item for item in bench.arguments(tmp_path / name)
        ]
        subprocess.run([sys.executable, "-c", program, *arguments], check=True, stdout=subprocess.DEVNULL)
        texts.append((tmp_path / name / "completions.jsonl").read_bytes())
    assert texts[0] == texts[1]
    rows = read_rows(tmp_path / "a/completions.jsonl")
    assert names_of(texts[0].splitlines()) == bench.wanted() and {row["model"] for row in rows} == {"echo"}
    for row in rows:
        *words, number = row["completion"][0]["content"].split()
        assert " ".join(words) in row["prompt"][0]["content"] and words and number == str((row["seed"] >> 32) % 1000)
    assert len({row["completion"][0]["content"] for row in rows}) > 10


def refusal(capsys, bench, model, *more):
    arguments = [f"--model={model}" if item.startswith("--model") else item for item in bench.arguments(bench.folder)]
    assert main([*arguments, *more]) == 1
    return capsys.readouterr().err


def test_what_is_no_script_is_refused_with_what_is_expected(tmp_path, capsys):
    bench = Bench(tmp_path, num_prompts=1, num_completions=1)
    assert "is a folder, but --engine scripted samples from a Python function" in refusal(capsys, bench, tmp_path)
    assert "give FILE.py:FUNCTION or the word echo" in refusal(capsys, bench, "Echo")
    assert "has no function 'anser'; did you mean 'answer'?" in refusal(capsys, bench, f"{bench.script}:anser")
    assert "there is no file" in refusal(capsys, bench, f"{tmp_path}/none.py:answer")
    assert "--base-url belongs to --engine openai" in refusal(capsys, bench, "echo", "--base-url=http://localhost")
    assert "--date is for a chat template" in refusal(capsys, bench, "echo", "--date=26 Jul 2024")
    assert [path.name for path in tmp_path.glob("*.jsonl")] == ["prompts.jsonl"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [("1 / 0", "raised ZeroDivisionError: division by zero"), ("7", "returned 7, expected a text")],
)
def test_a_script_that_fails_says_for_which_sample_and_keeps_the_rest(tmp_path, capsys, answer, message):
    bench = Bench(tmp_path, num_prompts=3, num_completions=2)
    bench.script.write_text(
        f"def answer(request, i, seed):\n    return {answer} if (request.key, i) == ('q1', 1) else 'fine'\n"
    )
    said = refusal(capsys, bench, f"{bench.script}:answer")
    assert message in said and "for sample 1 of prompt 'q1'" in said and "Traceback" not in said
    assert journaled(tmp_path) == [("q0", 0), ("q0", 1), ("q1", 0)]

"""Sampling over a Ray cluster of two nodes on this machine: the file of one process, whatever dies."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections import Counter

import pytest
from scripted_workers import PARAMS, Opener, RefusingOpener, prompts

from posttrain.cli import main
from posttrain.config import Execution
from posttrain.core.chat import load_tokenizer, stop_ids
from posttrain.core.errors import ModelError
from posttrain.core.files import read_rows
from posttrain.stages import StageCall
from posttrain.steps.sampling import sample
from synth.completions import sample_completions
from synth.engines.base import EngineError, Request, Sample, SamplingParams, refused_sample
from synth.engines.scripted import ScriptedEngine
from synth.engines.transformers import TransformersEngine

pytest.importorskip("ray")
from slow_workers import SlowOpener  # noqa: E402

from synth.engines.ray import Chunk, RayEngine, ray_engine, unfinished  # noqa: E402

LIKE = ScriptedEngine(lambda *_: "")


def engine_of(opener, cluster, num_workers=2):
    return RayEngine(LIKE, lambda device: opener, num_workers, cluster.address, "cpu")


def draw(engine, rows, out, num_completions=5, progress=None):
    return sample_completions(rows, engine, None, num_completions, PARAMS, 7, out, progress=progress)


def draw_here(rows, tmp_path, num_completions=5):
    folder = tmp_path / "here"
    folder.mkdir()
    engine, _ = Opener(folder)(0, 1)
    draw(engine, rows, folder / "out", num_completions)
    return (folder / "out/completions.jsonl").read_bytes()


def journaled(out):
    lines = (out / "journal/samples.jsonl").read_text().splitlines()
    return [(row["prompt_id"], row["sample_index"]) for row in map(json.loads, lines)]


def record(engine, seen):
    """Note every sample that the engine yields."""
    generate = engine.generate

    def noted(requests, params):
        for drawn in generate(requests, params):
            seen.append((drawn.key, drawn.sample_index))
            yield drawn

    engine.generate = noted


def calls_in(folder):
    """(key, sample index, process) of every sample that a worker began."""
    return [(key, int(index), pid) for key, index, pid in map(str.split, (folder / "calls").read_text().splitlines())]


# ------------------------------------------------------------------------------------------- without a cluster


def sampled(key, index):
    return Sample(key, index, "", None, "stop", 1, 0)


def test_unfinished_keeps_what_has_no_sample_with_its_seed():
    requests = (Request("a", (), (), (10, 11, 12), (0, 1, 2)), Request("b", (), (), (20,), (4,)))
    chunk = Chunk((*requests, Request("c", (), (), (30,), (0,))), PARAMS)
    (left,) = unfinished(chunk, [sampled("a", 1), sampled("b", 4)], apart=False)
    assert [(r.key, r.seeds, r.sample_indices) for r in left.requests] == [
        ("a", (10, 12), (0, 2)),
        ("c", (30,), (0,)),
    ]
    parts = unfinished(chunk, [sampled("a", 0), refused_sample(chunk.requests[2], 0, "too long")], apart=True)
    assert [[r.key for r in part.requests] for part in parts] == [["a"], ["b"]]
    every = [(request, place) for request in chunk.requests for place in range(len(request.seeds))]
    assert unfinished(chunk, [refused_sample(*one, "") for one in every], apart=True) == []


def test_a_machine_without_ray_is_told_what_to_install():
    code = (
        "import sys\nsys.modules['ray'] = None\nfrom posttrain.core.errors import ClusterError\n"
        "try:\n    import synth.engines.ray\nexcept ClusterError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert "pip install 'posttrain[ray]'" in done.stdout, done.stderr


@pytest.mark.slow
def test_an_address_without_a_cluster_is_refused_in_bounded_time():
    with socket.create_server(("127.0.0.2", 0)) as silent:
        addresses = ["127.0.0.1:1", f"127.0.0.2:{silent.getsockname()[1]}", "nonsense", "ray://nowhere.invalid:10001"]
        code = (
            "import sys\nfrom posttrain.core.errors import ClusterError\n"
            "from posttrain.core.ray_cluster import connect\n"
            "for address in sys.argv[1:]:\n"
            "    try:\n        connect(address, timeout_seconds=2)\n"
            "    except ClusterError as error:\n        print(error)\n"
        )
        command = [sys.executable, "-c", code, addresses[0], *addresses[2:], addresses[1]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    lines = done.stdout.splitlines()
    assert len(lines) == 4, done.stderr
    assert lines[0].startswith("nothing answers at 127.0.0.1:1") and "ray start --head" in lines[0]
    assert lines[1].startswith("'nonsense' is no address")
    assert lines[2].startswith("nothing answers at ray://nowhere.invalid:10001")
    assert "does not answer after 2 s" in lines[3] or lines[3].startswith("no connection to a Ray cluster")


# ------------------------------------------------------------------------------------------- on two nodes


@pytest.mark.slow
def test_a_node_killed_in_the_middle_loses_and_repeats_nothing(tmp_path, cluster):
    rows, out = prompts(50), tmp_path / "out"
    expected = draw_here(rows, tmp_path)
    before, yielded = [], []

    def kill_once(count, total):
        if not before and count >= 40 and len({pid for *_, pid in calls_in(tmp_path)}) == 2:  # both nodes are at work
            before.extend(journaled(out))
            cluster.kill_second()

    with engine_of(SlowOpener(tmp_path), cluster) as engine:
        record(engine, yielded)
        summary = draw(engine, rows, out, progress=kill_once)
    assert 40 <= len(before) < 250, "the kill came too late to test anything"
    assert (out / "completions.jsonl").read_bytes() == expected
    assert len(yielded) == len(set(yielded)) == 250
    assert summary.num_completions == 250 and summary.num_rejects == 0
    begun = Counter((key, index) for key, index, _ in calls_in(tmp_path))
    assert len(begun) == 250
    assert {begun[key] for key in before} == {1}


@pytest.mark.slow
def test_a_prompt_that_kills_its_workers_is_refused_and_the_others_are_answered(tmp_path, cluster):
    out = tmp_path / "out"
    with engine_of(Opener(tmp_path, fatal="q5", once=False), cluster) as engine:
        summary = draw(engine, prompts(24), out, 3)
    (reject,) = read_rows(out / "rejects.jsonl")
    assert reject["prompt_id"] == "q5" and reject["reason"].startswith("it killed its worker 2 times")
    assert summary.num_completions == 69 and summary.num_rejects == 1
    assert len({(key, index) for key, index, _ in calls_in(tmp_path)}) == 69
    assert (tmp_path / "died").exists()


@pytest.mark.slow
def test_an_error_of_ours_arrives_as_it_is(tmp_path, cluster):
    with engine_of(RefusingOpener(), cluster) as engine, pytest.raises(ModelError, match="no such model.*every node"):
        draw(engine, prompts(4), tmp_path / "out")
    other = RayEngine(ScriptedEngine(lambda *_: "", "another"), lambda _: Opener(tmp_path), 1, cluster.address, "cpu")
    with other, pytest.raises(EngineError, match="'model': 'scripted'.*speaks for.*another"):
        draw(other, prompts(4), tmp_path / "other")


@pytest.mark.slow
def test_a_run_begun_over_ray_is_finished_by_one_process(tmp_path, cluster, tiny_model_dir):
    tokenizer = load_tokenizer(tiny_model_dir)
    params = SamplingParams(1.0, 1.0, 0, 10, tuple(stop_ids(tokenizer)))
    rows = [{"prompt": f"say {'cat ' * (i % 7)}", "id": f"q{i}"} for i in range(30)]
    here = TransformersEngine(tiny_model_dir)
    sample_completions(rows, here, tokenizer, 4, params, 3, tmp_path / "here")

    def stop(count, total):
        if count:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with ray_engine(tiny_model_dir, "float32", "auto", 512, 2, cluster.address) as engine:
        assert engine.identity == here.identity
        with pytest.raises(KeyboardInterrupt):
            sample_completions(rows, engine, tokenizer, 4, params, 3, out, progress=stop)
    begun = len(journaled(out))
    assert 0 < begun < 120
    summary = sample_completions(rows, here, tokenizer, 4, params, 3, out)
    assert summary.num_completions == 120
    assert (out / "completions.jsonl").read_bytes() == (tmp_path / "here/completions.jsonl").read_bytes()


@pytest.mark.slow
def test_the_command_finishes_over_ray_what_one_process_began(tmp_path, cluster, tiny_model_dir, capsys):
    prompts_file = tmp_path / "prompts.jsonl"
    prompts_file.write_text(
        "".join(json.dumps({"prompt": f"say {'cat ' * i}", "id": f"q{i}"}) + "\n" for i in range(8))
    )
    command = ["sample", "--model", str(tiny_model_dir), "--prompts", str(prompts_file), "--num-completions", "4"]
    command += ["--temperature", "1.0", "--max-completion-tokens", "8", "--seed", "3", "--device", "cpu"]
    assert main([*command, "--out", str(tmp_path / "here")]) == 0
    tokenizer = load_tokenizer(tiny_model_dir)
    params = SamplingParams(1.0, 1.0, 0, 8, tuple(stop_ids(tokenizer)))

    def stop(count, total):
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        sample_completions(
            str(prompts_file), TransformersEngine(tiny_model_dir), tokenizer, 4, params, 3, out, progress=stop
        )
    capsys.readouterr()
    assert main([*command, "--out", str(out), "--ray", cluster.address, "--workers", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["session_tokens"] > 0
    assert (out / "completions.jsonl").read_bytes() == (tmp_path / "here/completions.jsonl").read_bytes()
    assert main([*command, "--out", str(out), "--ray", "auto", "--engine", "vllm"]) == 1
    assert "--ray belongs to --engine transformers, not vllm" in capsys.readouterr().err


@pytest.mark.slow
def test_the_stage_writes_the_same_file_on_a_cluster(tmp_path, cluster, tiny_model_dir):
    (tmp_path / "prompts").mkdir()
    lines = [json.dumps({"prompt": f"say {word}", "id": word}) + "\n" for word in ("cat", "dog", "bird", "fish")]
    (tmp_path / "prompts/prompts.jsonl").write_text("".join(lines))
    sampling = {"num_completions": 2, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
    sampling |= {"max_completion_tokens": 6, "system_prompt": None}
    inputs = {"model": tiny_model_dir, "prompts": [tmp_path / "prompts"]}
    remote = Execution(kind="ray", address=cluster.address, workers=1)
    for name, execution in (("local", Execution(device="cpu")), ("ray", remote)):
        (tmp_path / name).mkdir()
        call = StageCall(inputs, tmp_path / name, execution, None, lambda done, total: None)
        sample(call, None, sampling, seed=1, round=1)
    assert (tmp_path / "ray/completions.jsonl").read_bytes() == (tmp_path / "local/completions.jsonl").read_bytes()

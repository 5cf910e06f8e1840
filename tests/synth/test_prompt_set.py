"""Prompts in many passes: numbers in place of rows, ids in little memory, and changes noticed before they do harm."""

from __future__ import annotations

import importlib.metadata
import json
import random

import pytest
import transformers

from posttrain.core.chat import encode_prompt, load_tokenizer, stop_ids
from posttrain.core.errors import DataError
from posttrain.core.files import ListHash, content_hash, read_rows, write_rows
from posttrain.core.prompts import read_prompts
from synth.completions import PROMPTS_AT_ONCE, sample_completions
from synth.engines.base import SamplingParams
from synth.engines.scripted import ScriptedEngine, echo
from synth.engines.transformers import TransformersEngine
from synth.id_table import IdTable
from synth.prompt_set import PromptSet
from synth.prompt_sources import source_of

PARAMS = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_completion_tokens=8, stop_ids=())


def sample(prompts, out, engine=None, num_completions=1):
    return sample_completions(prompts, engine or ScriptedEngine(echo), None, num_completions, PARAMS, 7, out)


def by_name(out):
    rows = read_rows(out / "completions.jsonl")
    return {(row["prompt_id"], row["sample_index"]): row for row in rows}


def test_an_id_table_numbers_ids_as_a_dict_does():
    draw = random.Random(0)
    names = [f"é{draw.randrange(3_000)}" for _ in range(9_000)]
    table, places = IdTable(), {}
    for name in names:
        assert table.add(name) == (name not in places)
        places.setdefault(name, len(places))
    assert len(table) == len(places) > 2_500  # the table grew from 1,024 slots twice
    assert all(table.place(name) == place for name, place in places.items())
    assert table.place("é3000") is None


@pytest.mark.parametrize("items", [[], ["one"], [["a", 1], {"b": [None, "\ud800"]}, 2.5]])
def test_a_list_hash_is_the_content_hash_of_the_list(items):
    whole = ListHash()
    for item in items:
        whole.add(item)
    assert whole.hexdigest() == content_hash(items)


def test_the_passes_agree_with_rows_held_in_memory(tmp_path):
    lines = [
        '{"prompt": "a"}',
        "",
        "[]",
        '{"prompt": "a"}',
        '{"prompt": "", "id": "e"}',
        '{"prompt": "b", "id": 7, "x": 1}',
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\n".join([*lines, *lines]).encode())
    rows, rejects = read_prompts(path)
    # Lines 2 and 8 are blank, and the second six repeat the first: their "a" and "b" are duplicates of lines 1 and 6.
    assert [(reject["line"], reject["reason"][:19]) for reject in rejects] == [
        *((3, "expected a JSON obj"), (4, "duplicate of line 1"), (5, "field 'prompt[0].co")),
        *((7, "duplicate of line 1"), (9, "expected a JSON obj"), (10, "duplicate of line 1")),
        *((11, "field 'prompt[0].co"), (12, "duplicate of line 6")),
    ]
    prompts = PromptSet(source_of(path))
    assert (len(prompts), prompts.num_rejects) == (2, 8)
    assert prompts.digest == content_hash([[row["prompt_id"], content_hash(row)] for row in rows])
    assert [row for _, row in prompts.usable()] == rows
    assert [row for _, row in prompts.usable(lambda place: place == 1)] == rows[1:]
    entries = list(prompts.entries())
    assert [row for place, _, row in entries if place is None] == rejects
    assert [(place, line) for place, line, _ in entries if place is not None] == [(0, 1), (1, 6)]


def write_prompts(path, count, **changes):
    rows = [{"prompt": changes.get(f"q{i}", f"question {i}"), "id": f"q{i}"} for i in range(count)]
    write_rows(path, rows)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("changed", "count", "message"),
    [
        ({f"q{PROMPTS_AT_ONCE + 3}": "other"}, PROMPTS_AT_ONCE + 9, f"line {PROMPTS_AT_ONCE + 4} is not what it was"),
        ({"q1": "other"}, PROMPTS_AT_ONCE + 9, "line 2 is not what it was"),
        ({}, PROMPTS_AT_ONCE + 10, f"line {PROMPTS_AT_ONCE + 10} is not what it was"),
        ({}, PROMPTS_AT_ONCE + 8, f"1 of {PROMPTS_AT_ONCE + 9} rows are gone"),
    ],
)
def test_prompts_that_change_meanwhile_are_refused_and_never_mixed(tmp_path, suffix, changed, count, message):
    """A row ahead of the engine, a row behind it, one more, one less: the first call of the script changes the file."""
    path = tmp_path / f"prompts.{suffix}"
    write_prompts(path, PROMPTS_AT_ONCE + 9)
    asked = []

    def meddle(request, sample_index, seed):
        if not asked:
            write_prompts(path, count, **changed)
        asked.append(request.messages[0]["content"])
        return echo(request, sample_index, seed)

    with pytest.raises(
        DataError, match=f"prompts.{suffix} changed while it was sampled .*{message}.*put the file back"
    ):
        sample(path, tmp_path / "out", ScriptedEngine(meddle))
    assert not (tmp_path / "out/completions.jsonl").exists() and "other" not in asked
    write_prompts(path, PROMPTS_AT_ONCE + 9)
    engine = ScriptedEngine(echo)
    sample(path, tmp_path / "out", engine)
    assert len(engine.calls) == PROMPTS_AT_ONCE + 9 - len(asked)
    sample(path, tmp_path / "undisturbed")
    assert by_name(tmp_path / "out") == by_name(tmp_path / "undisturbed")


def test_five_bad_rows_of_a_thousand_cost_five_rows(tmp_path, tiny_model_dir):
    """Too long, empty, bad UTF-8, wrong roles and None, in the middle of good ones; two samples of each prompt."""
    tokenizer = load_tokenizer(tiny_model_dir)
    lines = [json.dumps({"prompt": f"the cat {i}", "id": f"q{i}"}).encode() for i in range(1000)]
    long = "the dog " * 130
    num_tokens = len(encode_prompt(tokenizer, [{"role": "user", "content": long}]))
    bad = {
        100: (
            json.dumps({"prompt": long, "id": "long"}).encode(),
            "long",
            f"too long: {num_tokens} tokens, the limit is 248",
        ),
        300: (b'{"prompt": " ", "id": "empty"}', "empty", "empty; give a text"),
        500: (b'{"prompt": "caf\xe9", "id": "latin"}', None, "not UTF-8 (byte 16 of the line)"),
        700: (b'{"prompt": [{"role": "assistant", "content": "hm"}], "id": "roles"}', "roles", "begins with the user"),
        999: (b'{"prompt": null, "id": "none"}', "none", "got nothing"),
    }
    good = [line for i, line in enumerate(lines) if i not in bad]
    for number, (line, _, _) in bad.items():
        lines[number] = line
    summaries = {}
    for name, part in (("all", lines), ("good", good)):
        (tmp_path / f"{name}.jsonl").write_bytes(b"\n".join(part))
        engine = ScriptedEngine(echo, context_tokens=256)
        summaries[name] = sample_completions(
            tmp_path / f"{name}.jsonl", engine, tokenizer, 2, PARAMS, 7, tmp_path / name
        )
    rows, rejects = read_rows(tmp_path / "all/completions.jsonl"), read_rows(tmp_path / "all/rejects.jsonl")
    assert (summaries["all"].num_prompts, summaries["all"].num_rejects, len(rows)) == (1000, 5, 2 * 995)
    assert len(rows) / 2 + len(rejects) == 1000
    assert [(reject["line"], reject["prompt_id"]) for reject in rejects] == [(n + 1, bad[n][1]) for n in sorted(bad)]
    assert all(bad[reject["line"] - 1][2] in reject["reason"] for reject in rejects)
    assert rows == read_rows(tmp_path / "good/completions.jsonl")


def test_a_sample_depends_neither_on_the_order_of_the_prompts_nor_on_their_company(tmp_path, tiny_model_dir):
    tokenizer, engine = load_tokenizer(tiny_model_dir), TransformersEngine(tiny_model_dir)
    rows = [{"prompt": "the cat " * (1 + i % 3), "id": f"q{i}"} for i in range(12)]
    shuffled = random.Random(1).sample(rows, 12)
    params = SamplingParams(1.0, 1.0, 0, 8, tuple(stop_ids(tokenizer)))
    for name, part in (("in order", rows), ("shuffled", shuffled), ("fewer", rows[5:8])):
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name / "prompts.jsonl", part)
        sample_completions(tmp_path / name / "prompts.jsonl", engine, tokenizer, 3, params, 7, tmp_path / name)
    first = by_name(tmp_path / "in order")
    assert list(by_name(tmp_path / "shuffled")) == [(row["id"], k) for row in shuffled for k in range(3)]
    assert by_name(tmp_path / "shuffled") == first
    assert by_name(tmp_path / "fewer") == {name: row for name, row in first.items() if name[0] in ("q5", "q6", "q7")}
    # Prompts with the same text are not one prompt: their samples are their own.
    texts = [[first[f"q{i}", k]["completion"][0]["content"] for k in range(3)] for i in (0, 3, 6, 9)]
    assert len({tuple(samples) for samples in texts}) == 4


def test_all_that_shapes_a_sample_is_stored_and_is_part_of_the_request(tmp_path, tiny_model_dir):
    tokenizer, engine = load_tokenizer(tiny_model_dir), TransformersEngine(tiny_model_dir)
    params = SamplingParams(0.7, 0.9, 40, 8, tuple(stop_ids(tokenizer)))
    rows = [{"prompt": "the cat", "id": "a"}]
    summary = sample_completions(
        rows, engine, tokenizer, 2, params, 7, tmp_path, max_prompt_tokens=50, date="26 Jul 2024"
    )
    usable = {"prompt": [{"role": "user", "content": "the cat"}], "id": "a", "prompt_id": "a"}
    assert summary.sampling == {
        **{"engine_kind": "transformers", "model": engine.model, "dtype": "float32", "num_completions": 2},
        **{
            "temperature": 0.7,
            "top_p": 0.9,
            "top_k": 40,
            "max_completion_tokens": 8,
            "stop_ids": list(params.stop_ids),
        },
        **{"seed": 7, "max_prompt_tokens": 50, "date": "26 Jul 2024"},
        "prompts": content_hash([["a", content_hash(usable)]]),
    }
    assert json.loads((tmp_path / "request.json").read_text()) == summary.sampling
    assert {row["model"] for row in read_rows(tmp_path / "completions.jsonl")} == {engine.model}
    stored = json.loads((tmp_path / "summary.json").read_text())
    assert stored["versions"] == {
        "posttrain": importlib.metadata.version("posttrain"),
        **{"torch": importlib.metadata.version("torch"), "transformers": transformers.__version__},
    }


@pytest.mark.parametrize(("temperature", "flagged"), [(0.69, False), (0.7, True)])
def test_identical_samples_are_flagged_from_a_temperature_of_0_7_on(tmp_path, temperature, flagged):
    engine = ScriptedEngine(lambda request, index, seed: "same")
    params = SamplingParams(temperature, 1.0, 0, 8, ())
    summary = sample_completions([{"prompt": "a"}], engine, None, 3, params, 7, tmp_path)
    assert summary.distinct_share == {"mean": 1 / 3, "least": 1 / 3} and summary.identical_prompts == 1
    assert summary.flags == [f"1 of 1 prompts have 3 identical samples at temperature {temperature}"] * flagged

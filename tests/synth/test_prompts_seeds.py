import json

import pytest

from synth.errors import SynthError
from synth.prompts.seeds import draw_prompts, from_file


def test_prompts_from_a_file_get_a_source_and_keep_their_own(tmp_path):
    path = tmp_path / "prompts.jsonl"
    lines = [
        {"prompt": "say one", "id": "a", "reference": "one"},
        {"prompt": [{"role": "user", "content": "say two"}], "source": "people", "round": 7},
        {"prompt": ""},
    ]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    rows, rejects = from_file(path, source="prompts.jsonl", round=1)
    assert [(row["prompt_id"] == "a", row["source"], row["round"]) for row in rows] == [
        (True, "prompts.jsonl", 1),
        (False, "people", 7),
    ]
    assert rows[0]["prompt"] == [{"role": "user", "content": "say one"}] and rows[0]["reference"] == "one"
    assert [reject["line"] for reject in rejects] == [3]
    assert "round" not in from_file(path, source="x")[0][0]


def test_a_draw_depends_on_seed_and_ids_alone():
    rows = [{"prompt_id": str(n), "n": n} for n in range(100)]
    drawn = draw_prompts(rows, 20, seed=1)
    assert [row["n"] for row in drawn] == sorted(row["n"] for row in drawn)
    again = draw_prompts(rows[::-1], 20, seed=1)
    assert {row["n"] for row in again} == {row["n"] for row in drawn}
    assert {row["n"] for row in drawn} < {row["n"] for row in draw_prompts(rows, 30, seed=1)}
    assert {row["n"] for row in drawn} != {row["n"] for row in draw_prompts(rows, 20, seed=2)}


def test_too_few_prompts_and_double_ids_are_errors():
    with pytest.raises(SynthError, match="3 prompts are wanted and 2 are there"):
        draw_prompts([{"prompt_id": "a"}, {"prompt_id": "b"}], 3, seed=1)
    with pytest.raises(SynthError, match="two prompts have the id 'a'"):
        draw_prompts([{"prompt_id": "a"}, {"prompt_id": "a"}], 1, seed=1)

"""The prompts of a round, streamed from its artifacts: the rows that a list of them would be."""

from __future__ import annotations

import pytest

from posttrain.core.errors import DataError
from posttrain.core.files import write_jsonl
from posttrain.steps.sampling import RoundPrompts
from synth.prompt_set import PromptSet
from synth.prompt_sources import source_of


def user(text):
    return {"role": "user", "content": text}


def system(text):
    return {"role": "system", "content": text}


def test_rows_of_all_artifacts_come_in_order_with_round_and_steering_prompt(tmp_path):
    write_jsonl(tmp_path / "a/prompts.jsonl", [{"prompt": [user("one")], "prompt_id": "1", "source": "file"}])
    write_jsonl(
        tmp_path / "b/prompts.jsonl",
        [{"prompt": [system("old"), user("two")], "prompt_id": "2"}, {"prompt": [user("three")], "prompt_id": "1"}],
    )
    rows = [
        {"prompt": [system("new"), user("one")], "prompt_id": "1", "source": "file", "own_prompt": [user("one")]},
        {"prompt": [system("new\n\nold"), user("two")], "prompt_id": "2", "own_prompt": [system("old"), user("two")]},
        {"prompt": [system("new"), user("three")], "prompt_id": "1", "own_prompt": [user("three")]},
    ]
    streamed = PromptSet(RoundPrompts([tmp_path / "a", tmp_path / "b"], "new", 3))
    held = PromptSet(source_of([{**row, "round": 3} for row in rows]))
    assert list(streamed.entries()) == list(held.entries())
    assert (streamed.digest, streamed.num_rejects) == (held.digest, 1)
    assert [row for _, row in streamed.usable()] == [{**row, "round": 3} for row in rows[:2]]


def test_a_line_that_no_stage_writes_is_an_error_that_names_its_file_and_line(tmp_path):
    write_jsonl(tmp_path / "a/prompts.jsonl", [{"prompt": [user("one")]}, {"prompt": [user("two")]}])
    (tmp_path / "b").mkdir()
    # line 2 is blank; the line at fault is the fourth of all, and the third of its file
    (tmp_path / "b/prompts.jsonl").write_text('{"prompt": [{"role": "user", "content": "three"}]}\n\nnonsense\n')
    with pytest.raises(DataError, match=r"/b/prompts\.jsonl:3: not JSON.*posttrain verify") as caught:
        PromptSet(RoundPrompts([tmp_path / "a", tmp_path / "b"], None, 1))
    assert str(tmp_path / "a") not in str(caught.value)

import copy
import json

import pytest

from posttrain.core.errors import DataError
from posttrain.core.files import write_rows
from posttrain.core.formats import check_rows, normalize_prompt, prompt_id, read_checked_rows
from posttrain.core.prompts import read_prompts

USER = {"role": "user", "content": "say yes"}
ANSWER = [{"role": "assistant", "content": "yes"}]
OTHER = [{"role": "assistant", "content": "no"}]
CALLS = [{"type": "function", "function": {"name": "look", "arguments": {"at": "it"}}}]
GOOD = {
    "prompt": {"prompt": [USER]},
    "completion": {"prompt": [USER], "completion": ANSWER},
    "preference": {"prompt": [USER], "chosen": ANSWER, "rejected": OTHER},
    "ranking": {"prompt": [USER], "completions": [ANSWER, OTHER]},
    "messages": {"messages": [{"role": "system", "content": "be brief"}, USER, *ANSWER, USER, *OTHER]},
}
# kind, what to change in the good row, what the message has to say
BAD = [
    ("prompt", {"prompt": None}, ["no field 'prompt'", "expected [{"]),
    ("prompt", {"prompt": []}, ["expected a list of messages", "got []"]),
    ("prompt", {"prompt": [USER, *ANSWER]}, ["expected the last role 'user', got 'assistant'"]),
    ("prompt", {"prompt": [{"role": "human", "content": "x"}]}, ["prompt[0].role", "system, user", "got 'human'"]),
    ("prompt", {"prompt": [{"role": "user"}]}, ["prompt[0].content", "expected a text, got nothing"]),
    ("prompt", {"prompt": [{"role": "user", "content": " \n"}]}, ["prompt[0].content", "empty"]),
    ("prompt", {"prompt": [{"role": "user", "content": [{"type": "text"}]}]}, ["expected a text, got [{"]),
    ("prompt", {"prompt": [{"role": "user", "content": "a\ud800"}]}, ["character 2 is half a surrogate pair"]),
    ("prompt", {"prompt": ["x"]}, ["expected a message {role, content}, got 'x'"]),
    ("prompt", {"prompt": [USER, {"role": "system", "content": "x"}, USER]}, ["prompt[1]", "stands first"]),
    ("prompt", {"prompt": [*ANSWER, USER]}, ["begins with the user, got 'assistant'"]),
    ("completion", {"completion": "yes"}, ["field 'completion': expected [{", "got 'yes'"]),
    ("completion", {"completion": [USER]}, ["expected the role 'assistant', got 'user'"]),
    ("completion", {"completion": [{"role": "assistant", "content": ""}]}, ["completion[0].content", "empty"]),
    ("completion", {"completion": [*ANSWER, *OTHER]}, ["field 'completion'"]),
    ("preference", {"rejected": [USER]}, ["rejected", "got 'user'"]),
    ("preference", {"rejected": copy.deepcopy(ANSWER)}, ["chosen and rejected are the same text"]),
    ("preference", {"chosen": None}, ["no field 'chosen' (found: prompt, rejected)"]),
    ("ranking", {"completions": [ANSWER]}, ["two or more answers"]),
    ("ranking", {"completions": [ANSWER, ANSWER]}, ["the same text stands there twice"]),
    ("messages", {"messages": [USER]}, ["no assistant message"]),
    ("messages", {"messages": [USER, {"role": "assistant", "tool_calls": []}]}, ["[1].content", "got nothing"]),
    ("messages", {"messages": [USER, {"role": "assistant", "tool_calls": ["x"]}]}, ["call 1: expected", "got 'x'"]),
    (
        "messages",
        {"messages": [USER, {"role": "assistant", "tool_calls": [{"name": "look", "arguments": "at it"}]}]},
        ["call 1: arguments must be an object or its JSON text, got 'at it'"],
    ),
    (
        "messages",
        {"messages": [USER, {"role": "assistant", "tool_calls": [{"name": "look", "arguments": {"at": None}}]}]},
        ["call 1: arguments hold null", "JSON text"],
    ),
    ("messages", {"tools": [{"name": "look", "parameters": {"at": None}}]}, ["schema holds null", "JSON text"]),
    ("messages", {"messages": [{**USER, "tool_calls": CALLS}, *ANSWER]}, ["only the assistant calls", "'user'"]),
    ("messages", {"tools": "look"}, ["field 'tools': expected a list of schemas", "got 'look'"]),
    ("messages", {"tools": [{"type": "function"}]}, ["field 'tools': tool 1: expected", "got {'type': 'function'}"]),
    ("completion", {"completion": [{"role": "assistant", "tool_calls": CALLS}]}, ["an answer is a text; tool calls"]),
    ("messages", {"messages": [USER, {"role": "assistant", "content": None}]}, ["messages[1].content", "got nothing"]),
]


@pytest.mark.parametrize("kind", GOOD)
def test_good_rows_pass_with_side_columns(kind):
    rows = [{**GOOD[kind], "source": "x", "score": 1.0} for _ in range(2)]
    check_rows(rows, kind, "rows.jsonl")
    assert rows == [{**GOOD[kind], "source": "x", "score": 1.0}] * 2  # looked at, not changed


@pytest.mark.parametrize(("kind", "change", "words"), BAD)
def test_a_bad_row_is_named_with_field_expected_and_found(kind, change, words):
    with pytest.raises(DataError) as error:
        check_rows([GOOD[kind], {**GOOD[kind], **change}], kind, "rows.jsonl")
    for word in ["rows.jsonl", "row 2: ", "1 fault", *words]:
        assert word in str(error.value)
    assert "row 1:" not in str(error.value)


def test_tools_calls_and_results_are_good_messages_and_prompts():
    turns = [USER, {"role": "assistant", "tool_calls": CALLS}, {"role": "tool", "content": "it"}]
    as_text = [{"name": "look", "arguments": '{"at": null}'}]
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    rows = [
        {"messages": turns},
        {"messages": [*turns, *ANSWER], "tools": tools},
        {
            "messages": [USER, {"role": "assistant", "content": "wait", "tool_calls": as_text}],
            "tools": json.dumps(tools),
        },
        {"messages": [{**USER, "tool_calls": None}, *ANSWER], "tools": None},  # as Parquet gives them
    ]
    check_rows(rows, "messages", "rows")
    assert normalize_prompt(turns)[:1] == [USER]


def test_an_empty_sample_may_be_scored(tmp_path):
    empty = {"prompt": [USER], "completion": [{"role": "assistant", "content": ""}]}
    check_rows([empty], "completion", "rows", allow_empty=True)
    write_rows(tmp_path / "f.jsonl", [empty])
    assert read_checked_rows(tmp_path / "f.jsonl", "completion", allow_empty=True) == [empty]


def test_a_file_lists_bad_json_and_bad_rows_by_line(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(f"{json.dumps(GOOD['completion'])}\n\n{{\n{json.dumps({'prompt': [USER]})}\n")
    with pytest.raises(DataError) as error:
        read_checked_rows(path, "completion")
    assert "2 faults" in str(error.value)
    assert "line 3: not JSON" in str(error.value) and "line 4: no field 'completion'" in str(error.value)
    path.write_text("\n")
    with pytest.raises(DataError, match="holds no rows"):
        read_checked_rows(path, "completion")


@pytest.mark.parametrize("kind", GOOD)
def test_parquet_rows_are_checked_alike(tmp_path, kind):
    write_rows(tmp_path / "f.parquet", [GOOD[kind]])
    assert read_checked_rows(tmp_path / "f.parquet", kind) == [GOOD[kind]]


# ------------------------------------------------------------------ prompts


def test_a_text_is_one_user_message_and_messages_stay():
    assert normalize_prompt("say yes") == [USER]
    messages = [{"role": "system", "content": "x"}, USER, *ANSWER, {"role": "user", "content": " y "}]
    before = copy.deepcopy(messages)
    assert normalize_prompt(messages) == before and messages == before
    assert normalize_prompt([{**USER, "tool_calls": None}]) == [USER]  # as Parquet gives it
    for bad in ("", None, 3, [], {"role": "user", "content": "x"}, "\udcff"):
        with pytest.raises(DataError):
            normalize_prompt(bad)


def test_a_prompt_is_named_by_its_content():
    name = prompt_id([USER])
    assert name == prompt_id([{"content": "say yes", "role": "user"}]) and len(name) == 16
    assert name != prompt_id([{"role": "user", "content": "say yes "}])


def test_prompts_are_read_with_a_reason_for_each_that_is_not(tmp_path):
    path = tmp_path / "prompts.jsonl"
    lines = [
        '{"prompt": "say yes", "reference": {"x": 1}}',
        '{"prompt": [{"role": "user", "content": "say no"}], "id": "a"}',
        "",
        '{"prompt": "other", "prompt_id": "b"}',
        '{"prompt": "another", "id": 7}',
        '{"prompt": "say yes"}',
        '{"prompt": "new", "id": "a"}',
        '{"prompt": "", "id": "empty"}',
        '{"prompt": [{"role": "assistant", "content": "x"}]}',
        '{"prompt": null}',
        "{broken",
        "null",
        '{"text": "x", "id": "lost"}',
        '{"prompt": "x", "id": ["y"]}',
        '{"prompt": "bad \\ud800"}',
        '{"prompt": "say no", "id": "z"}',
    ]
    path.write_text("\n".join(lines) + "\n")
    rows, rejects = read_prompts(path)
    assert rows[0] == {"prompt": [USER], "prompt_id": prompt_id([USER]), "reference": {"x": 1}}
    assert [row["prompt_id"] for row in rows] == [prompt_id([USER]), "a", "b", "7", "z"]
    assert rows[3]["id"] == 7  # other keys are left as they are
    assert [(reject["line"], reject["prompt_id"]) for reject in rejects] == [
        *((6, prompt_id([USER])), (7, "a"), (8, "empty"), (9, None), (10, None), (11, None), (12, None)),
        *((13, "lost"), (14, None), (15, None)),
    ]
    reasons = [reject["reason"] for reject in rejects]
    for reason, word in zip(
        reasons,
        ["duplicate of line 1", "duplicate of line 2", "empty", "user", "prompt", "not JSON", "JSON object"]
        + ["found: text, id", "expected a text, got ['y']", "surrogate"],
        strict=True,
    ):
        assert word in reason
    assert all(set(reject) == {"line", "prompt_id", "reason"} for reject in rejects)
    assert len(rows) + len(rejects) == sum(bool(line) for line in lines)


def test_prompts_are_read_from_parquet(tmp_path):
    write_rows(tmp_path / "p.parquet", [{"prompt": "one", "id": "a"}, {"prompt": "two"}, {"prompt": None}])
    rows, rejects = read_prompts(tmp_path / "p.parquet")
    two = [{"role": "user", "content": "two"}]
    assert [(row["prompt_id"], row["prompt"][0]["content"]) for row in rows] == [("a", "one"), (prompt_id(two), "two")]
    assert [reject["line"] for reject in rejects] == [3]

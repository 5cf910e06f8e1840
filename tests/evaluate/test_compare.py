"""Comparing two files by each kind of judge."""

import logging

import pytest

from posttrain.core.errors import DataError
from posttrain.evaluate.compare import compare
from posttrain.evaluate.win_rate import win_rate


def row(prompt_id, text, **more):
    prompt = [{"role": "user", "content": f"say {prompt_id}"}]
    completion = [{"role": "assistant", "content": text}]
    return {"prompt_id": prompt_id, "sample_index": 0, "prompt": prompt, "completion": completion, **more}


def verifier_file(tmp_path):
    path = tmp_path / "longest.py"
    path.write_text(
        "def verify(prompt, completion, row):\n"
        "    if completion == 'crash':\n"
        "        raise ValueError('no')\n"
        "    return float(len(completion))\n"
    )
    return f"verifier:{path}:verify"


def test_verifier_decides_and_its_failures_have_no_say(tmp_path):
    rows_a = [row(f"p{i}", "red green") for i in range(10)] + [row("q", "red"), row("z", "crash")]
    rows_b = [row(f"p{i}", "red") for i in range(10)] + [row("q", "red"), row("z", "red")]
    result = win_rate(compare(rows_a, rows_b, verifier_file(tmp_path)))
    assert (result["wins"], result["ties"], result["losses"], result["unreadable"]) == (10, 1, 0, 1)
    assert result["win_rate"] == pytest.approx(10.5 / 11)
    assert result["mean_length_b"] == 3


def test_reward_model_decides_and_mirrors(tiny_reward_model_dir):
    words = ["red", "green dog", "blue cat bird", "yes", "no no no", "fish tree"]
    rows_a = [row(f"p{i}", word) for i, word in enumerate(words)]
    rows_b = [row(f"p{i}", word) for i, word in enumerate(reversed(words))]
    judge = f"reward_model:{tiny_reward_model_dir}"
    ours, theirs = win_rate(compare(rows_a, rows_b, judge)), win_rate(compare(rows_b, rows_a, judge))
    assert ours["win_rate"] == pytest.approx(1 - theirs["win_rate"])
    same = win_rate(compare(rows_a, rows_a, judge))
    assert (same["win_rate"], same["ties"]) == (0.5, 6)


def test_labels_decide_as_they_are(tmp_path, caplog):
    labels = tmp_path / "labels.jsonl"
    labels.write_text(
        '{"prompt_id": "p", "preference": 1}\n{"prompt_id": "p", "preference": 0.5}\n'
        '{"prompt_id": "q", "preference": 0.25}\n{"prompt_id": "stranger", "preference": 1}\n'
    )
    with caplog.at_level(logging.WARNING):
        verdicts = compare([row("p", "red"), row("q", "red")], [row("p", "blue"), row("q", "blue")], f"labels:{labels}")
    # p is (1 + 0.5) / 2 = 0.75, q is 0.25
    result = win_rate(verdicts)
    assert (result["win_rate"], result["num_pairs"], result["wins"], result["losses"]) == (0.5, 2, 1, 1)
    assert (result["mean_length_a"], result["mean_length_b"]) == (3, 4)
    assert "stranger" in caplog.text


def test_labels_on_other_prompts_are_refused(tmp_path):
    labels = tmp_path / "labels.jsonl"
    labels.write_text('{"prompt_id": "x", "preference": 1}\n')
    with pytest.raises(DataError, match="none of its 1 labels"):
        compare([row("p", "red")], [row("p", "blue")], f"labels:{labels}")


def test_prompts_that_one_side_lacks_are_named(tmp_path, caplog):
    rows_a, rows_b = [row("p", "red green"), row("only_a", "red")], [row("p", "red"), row("only_b", "red")]
    with caplog.at_level(logging.WARNING):
        assert len(compare(rows_a, rows_b, verifier_file(tmp_path))) == 1
    assert "1 prompts are not in A and are left out: only_b" in caplog.text
    assert "1 prompts are not in B and are left out: only_a" in caplog.text


def test_what_cannot_be_paired_is_named_by_its_file():
    names = ("A (a.jsonl)", "B (b.jsonl)")
    other = {**row("p", "red"), "prompt": "say something else"}
    with pytest.raises(DataError, match=r"(?s)A \(a.jsonl\) and B \(b.jsonl\).*'p' is another prompt"):
        compare([row("p", "red")], [other], "labels:none", names=names)
    with pytest.raises(DataError, match=r"(?s)the rows of B \(b.jsonl\).*row 2: sample 0 of .* is there twice"):
        compare([row("p", "red")], [row("p", "red")] * 2, "labels:none", names=names)
    with pytest.raises(DataError, match=r"A \(a.jsonl\) has 1 prompts and B \(b.jsonl\) has 1, and no prompt_id"):
        compare([row("p", "red")], [row("q", "red")], "labels:none", names=names)


@pytest.mark.parametrize("judge", ["reward_model:nowhere", "llm:nowhere", "rubric:nowhere", "verifier:number"])
def test_rows_without_a_completion_are_refused_before_a_judge_is_opened(judge):
    bare = [{key: value for key, value in row(f"p{i}", "red").items() if key != "completion"} for i in range(2)]
    with pytest.raises(DataError, match=r"(?s)the rows of B \(b.jsonl\): 2 faults.*row 2: .*'p1' has no completion"):
        compare([row("p0", "red"), row("p1", "red")], bare, judge, names=("A", "B (b.jsonl)"))


def test_prompts_without_a_label_are_named(tmp_path, caplog):
    labels = tmp_path / "labels.jsonl"
    labels.write_text('{"prompt_id": "p", "preference": 1}\n')
    with caplog.at_level(logging.WARNING):
        compare([row("p", "red"), row("q", "red")], [row("p", "blue"), row("q", "blue")], f"labels:{labels}")
    assert f"1 prompts are not in {labels}, though both A and B have them, and are left out: q" in caplog.text


def test_unknown_judges_are_refused():
    for spec in ("oracle:x", "verifier", "labels:"):
        with pytest.raises(DataError, match="reward_model:DIR, verifier:FILE.py:FUNCTION, llm:DIR-or-URL, rubric:DIR"):
            compare([row("p", "red")], [row("p", "red")], spec)

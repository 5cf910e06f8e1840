"""Exchanging A and B mirrors every number, and a model against itself is one half, whatever the judge."""

import pytest

from posttrain.core.files import read_rows, write_rows
from posttrain.evaluate.blind_pairs import make_pairs
from posttrain.evaluate.compare import compare
from posttrain.evaluate.llm_judge import compare_by_llm, compare_by_rubric
from posttrain.evaluate.pair_labels import tell_for_models
from posttrain.evaluate.win_rate import win_rate
from reward.judges.pairwise import PairwiseJudge
from reward.judges.rubric import RubricJudge

WORDS = ["red", "green", "blue", "yes", "no", "dog", "cat", "bird", "fish", "tree"]


def rows(model, step, most=7):
    """Two samples a prompt, of lengths that go up and down at the model's own step; they share some texts."""
    return [
        {
            "prompt_id": f"p{i:02}",
            "sample_index": index,
            "prompt": [{"role": "user", "content": f"say {WORDS[i % 10]}"}],
            "completion": [{"role": "assistant", "content": " ".join(WORDS[: 1 + (i * step + index) % most])}],
            "model": model,
        }
        for i in range(24)
        for index in range(2)
    ]


def last_part(question, after):
    return question.split(after)[1].split("--- end")[0].partition("\n")[2]


def by_llm(rows_a, rows_b, tmp_path, model_dir):
    """Read a bias for length and one for the first place, and sometimes nothing."""

    def generate(conversations):
        replies = []
        for turns in conversations:
            first, second = (len(last_part(turns[0]["content"], f"--- answer {side}")) for side in "AB")
            replies.append("?" if first % 11 == 0 else f"Verdict: {'A' if first + 6 >= second else 'B'}")
        return replies

    return compare_by_llm(rows_a, rows_b, PairwiseJudge(generate))


def by_rubric(rows_a, rows_b, tmp_path, model_dir):
    def generate(conversations):
        lengths = [len(last_part(turns[0]["content"], "--- answer")) for turns in conversations]
        return [f"Rating: {min(5, 1 + length // 5)}" if length % 13 else "?" for length in lengths]

    return compare_by_rubric(rows_a, rows_b, RubricJudge(generate))


def by_verifier(rows_a, rows_b, tmp_path, model_dir):
    path = tmp_path / "even.py"
    path.write_text("def verify(prompt, completion, row):\n    return float(len(completion) % 3)\n")
    return compare(rows_a, rows_b, f"verifier:{path}:verify")


def by_reward_model(rows_a, rows_b, tmp_path, model_dir):
    return compare(rows_a, rows_b, f"reward_model:{model_dir}")


def by_labels(rows_a, rows_b, tmp_path, model_dir):
    """The file is made once, for the first two sides that come; the exchanged ones find it."""
    path = tmp_path / f"{'-'.join(sorted({rows_a[0]['model'], rows_b[0]['model']}))}.jsonl"
    if not path.exists():
        shown, key = make_pairs(rows_a, rows_b, ("a", "b"), seed=0, num_samples=2)
        said = [
            {"pair_id": row["pair_id"], "labeller": None, "preference": min(1.0, len(row["first"]) / 30)}
            for row in shown
        ]
        if shown:
            write_rows(path, tell_for_models(key, said)[0])
        else:  # nothing to ask where both are the same
            write_rows(path, [{"prompt_id": row["prompt_id"], "preference": 0.5} for row in key])
    assert read_rows(path)
    return compare(rows_a, rows_b, f"labels:{path}")


KINDS = [by_llm, by_rubric, by_verifier, by_reward_model, by_labels]


@pytest.mark.parametrize("judge", KINDS)
def test_exchanging_a_and_b_mirrors_every_number(judge, tmp_path, tiny_reward_model_dir):
    a, b = rows("x", 3), rows("y", 5, most=5)
    ours = win_rate(judge(a, b, tmp_path, tiny_reward_model_dir))
    theirs = win_rate(judge(b, a, tmp_path, tiny_reward_model_dir))
    assert ours["win_rate"] != 0.5
    for one, other in ((ours, theirs), (ours["length_controlled"], theirs["length_controlled"])):
        mirrored = {"win_rate": 1 - other["win_rate"], "low": 1 - other["high"], "high": 1 - other["low"]}
        assert {key: one[key] for key in mirrored} == pytest.approx(mirrored, abs=1e-9)
    assert ours["win_rate"] == pytest.approx(1 - theirs["win_rate"], abs=1e-15)
    for key, partner in (("wins", "losses"), ("ties", "ties"), ("losses", "wins"), ("unreadable", "unreadable"),
                         ("num_pairs", "num_pairs"), ("mean_length_a", "mean_length_b")):  # fmt: skip
        assert ours[key] == theirs[partner]
    assert ours.get("flip_rate") == theirs.get("flip_rate")


@pytest.mark.parametrize("judge", KINDS)
def test_a_model_against_itself_is_one_half(judge, tmp_path, tiny_reward_model_dir):
    same = win_rate(judge(rows("x", 3), rows("x", 3), tmp_path, tiny_reward_model_dir))
    assert same["win_rate"] == 0.5 and same["length_controlled"]["win_rate"] == pytest.approx(0.5, abs=1e-9)
    assert same["wins"] == same["losses"]

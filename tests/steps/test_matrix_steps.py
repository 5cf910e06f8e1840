"""Stages after the rounds: every pair by one judge, and drift; the judge is a server that reads what it is shown."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from posttrain.config import (
    DriftConfig,
    EndpointModel,
    Execution,
    FolderModel,
    JudgeAnnotator,
    LabelsJudge,
    LLMJudge,
    RubricJudge,
    VerifierJudge,
)
from posttrain.core.chat import load_tokenizer
from posttrain.core.errors import DataError
from posttrain.core.files import read_rows, write_jsonl
from posttrain.stages import StageCall
from posttrain.steps.drift import drift
from posttrain.steps.judging import judge_rows, open_pairwise, win_rate_of_judge
from posttrain.steps.matrix import agree, matrix_of_judge, matrix_of_labels, matrix_of_scores, rate_answers
from posttrain.steps.oracle import gold
from posttrain.steps.verifying import verify_rows
from reward.errors import TooManyErrors
from synth.engines.base import EngineError

NAMES = ["base", "round_1", "students/one"]
ANSWERS = {"base": "one", "round_1": "one two three", "students/one": "one two"}
SETTINGS = {"anchor": "base", "seed": 0, "num_bootstrap": 50}


CONCURRENCY = 4


class Judge:
    """A chat server: of two answers the one with more words wins; one answer is rated by its words."""

    def __init__(self) -> None:
        self.num_asked = 0
        self.dies_after: int | None = None
        judge = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                judge.num_asked += 1
                if judge.dies_after is not None and judge.num_asked > judge.dies_after:
                    self.send_error(401, "gone")
                    return
                message = {"role": "assistant", "content": judge.reply(body["messages"][-1]["content"])}
                choices = [{"index": 0, "finish_reason": "stop", "message": message}]
                reply = {"id": "x", "object": "chat.completion", "choices": choices, "usage": {"completion_tokens": 3}}
                data = json.dumps(reply).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @staticmethod
    def reply(question: str) -> str:
        if "--- answer A" not in question:
            words = len(question.split("BEGIN")[1].split("END")[0].split())
            return f"Rating: {words}"
        first, second = (question.split(f"--- answer {side}")[1].split("--- end")[0].split() for side in "AB")
        return f"Verdict: {'A' if len(first) > len(second) else 'B' if len(second) > len(first) else 'TIE'}"

    @property
    def model(self) -> EndpointModel:
        url = f"http://127.0.0.1:{self.server.server_port}/v1"
        return EndpointModel(base_url=url, model="judge", revision="1", dialect="openai", concurrency=CONCURRENCY)


@pytest.fixture
def judge():
    judge = Judge()
    yield judge
    judge.server.shutdown()
    judge.server.server_close()


@pytest.fixture
def completions(tmp_path: Path) -> list[Path]:
    return [write_answers(tmp_path / "artifacts" / str(number), name) for number, name in enumerate(NAMES)]


def write_answers(folder: Path, name: str, num_prompts: int = 4) -> Path:
    rows = [
        {
            "prompt_id": f"p{number}",
            "sample_index": 0,
            "prompt": [{"role": "user", "content": "say what"}],
            "completion": [{"role": "assistant", "content": ANSWERS.get(name, name)}],
            "finish_reason": "stop",
            "model": f"hash of {name}",
        }
        for number in range(num_prompts)
    ]
    write_jsonl(folder / "completions.jsonl", rows)
    return folder


def call(out: Path, **inputs) -> StageCall:
    out.mkdir(parents=True, exist_ok=True)
    return StageCall(inputs, out, Execution(device="cpu"), None, lambda done, total: None)


def rates(result) -> dict[tuple[str, str], float | None]:
    return {(entry["a"], entry["b"]): entry["win_rate"] for entry in result["matrix"]}


LONGER_WINS = {("round_1", "base"): 1.0, ("students/one", "base"): 1.0, ("students/one", "round_1"): 0.0}


def test_a_language_model_compares_every_pair_in_both_orders(judge, completions, tmp_path):
    asked = {"content": None, "names": NAMES, "num_prompts": None, **SETTINGS}
    result = matrix_of_judge(
        call(tmp_path / "out", completions=completions, known=[]), LLMJudge(model=judge.model), "llm", **asked
    )
    assert rates(result) == LONGER_WINS
    assert judge.num_asked == 3 * 4 * 2  # pairs, prompts, orders
    assert all(entry["flip_rate"] == 0.0 and entry["judge"] == "llm" for entry in result["matrix"])
    assert [row["model"] for row in result["ratings"]][0] == "base"
    verdicts = read_rows(tmp_path / "out" / "verdicts.jsonl")
    assert len(verdicts) == 12 and verdicts[0]["replies"] == ["Verdict: A", "Verdict: B"]  # the whole replies are kept


def test_a_matrix_that_was_interrupted_asks_only_what_has_no_reply(judge, completions, tmp_path):
    asked = {"content": None, "names": NAMES, "num_prompts": None, **SETTINGS}
    work = call(tmp_path / "out", completions=completions, known=[])
    judge.dies_after = 12  # in the middle of the second pair
    with pytest.raises(EngineError, match="status 401"):
        matrix_of_judge(work, LLMJudge(model=judge.model), "llm", **asked)
    judge.dies_after, before = None, judge.num_asked
    assert rates(matrix_of_judge(work, LLMJudge(model=judge.model), "llm", **asked)) == LONGER_WINS
    assert 0 <= judge.num_asked - before - (3 * 4 * 2 - 12) < CONCURRENCY  # those under way are lost
    assert not list(work.out.glob("*.journal.jsonl"))


def test_pairs_of_the_rounds_are_taken_over_and_the_others_judged_on_some_prompts(judge, completions, tmp_path):
    known = tmp_path / "known"
    write_jsonl(known / "verdicts.jsonl", [{"prompt_id": "p0", "preference": 0.0, "verdict": "B"}])
    (known / "win_rate.json").write_text(json.dumps({"names": ["round_1", "base"]}))
    asked = {"content": None, "names": NAMES, "num_prompts": 2, **SETTINGS}
    work = call(tmp_path / "out", completions=completions, known=[known])
    result = matrix_of_judge(work, LLMJudge(model=judge.model), "llm", **asked)
    assert rates(result) == LONGER_WINS | {("round_1", "base"): 0.0}
    assert judge.num_asked == 2 * 2 * 2  # two pairs, two prompts, two orders


def test_a_rubric_judge_rates_each_answer_once(judge, completions, tmp_path):
    template = tmp_path / "rubric.txt"
    template.write_text("# ours\n{prompt}\nBEGIN\n{completion}\nEND\n")
    rubric = RubricJudge(model=judge.model, template=str(template), highest=3)
    counts = rate_answers(call(tmp_path / "rated", completions=completions), rubric, "content", seed=0)
    assert (counts["num_rows"], counts["num_errors"], counts["mean_score"]) == (12, 0, (1 + 3 + 2) / 3)
    assert judge.num_asked == 12
    work = call(tmp_path / "out", completions=completions, scored=[tmp_path / "rated"])
    result = matrix_of_scores(work, "rubric", NAMES, **SETTINGS)
    assert rates(result) == LONGER_WINS
    assert result["mean_scores"] == {"base": 1.0, "round_1": 3.0, "students/one": 2.0}


def test_a_rubric_judge_that_was_interrupted_asks_only_what_has_no_reply(judge, completions, tmp_path):
    """Five of twelve replies are there when the server goes; ratings above 2 are unreadable."""
    template = tmp_path / "rubric.txt"
    template.write_text("# ours\n{prompt}\nBEGIN\n{completion}\nEND\n")
    rubric = RubricJudge(model=judge.model, template=str(template), highest=2, num_retries=2)
    work = call(tmp_path / "rated", completions=completions)
    judge.dies_after = 5
    with pytest.raises(EngineError, match="status 401"):
        rate_answers(work, rubric, "content", seed=0)
    judge.dies_after, judge.num_asked = None, 0
    counts = rate_answers(work, rubric, "content", seed=0)
    assert (counts["num_errors"], counts["mean_score"]) == (4, (4 * 1 + 4 * 2) / 8)
    # the rest with what was under way, and two retries of the four that cannot be rated
    assert 0 <= judge.num_asked - (7 + 4 * 2) < CONCURRENCY
    assert not list(work.out.glob("*.journal.jsonl"))


def test_a_win_rate_and_labels_by_a_judge_go_on_too(judge, completions, tmp_path):
    compared = call(tmp_path / "compared", a=completions[0], b=completions[1])
    annotator = JudgeAnnotator(model=judge.model)
    rows = [row | {"sample_index": place} for place, path in enumerate(completions) for row in answers_of(path)]

    def win_rate():
        return win_rate_of_judge(compared, LLMJudge(model=judge.model), None, ["base", "round_1"], seed=0)

    def label():
        return judge_rows(call(tmp_path / "labelled"), annotator, rows, seed=0)

    for stage, num_questions in ((win_rate, 4 * 2), (label, 4 * 3 * 2)):
        judge.num_asked, judge.dies_after = 0, 3
        with pytest.raises(EngineError):
            stage()
        judge.num_asked, judge.dies_after = 0, None
        stage()
        assert 0 <= judge.num_asked - (num_questions - 3) < CONCURRENCY


def test_weights_here_are_asked_once_and_an_endpoint_as_often_as_the_recipe_says(judge, tiny_model_dir, tmp_path):
    """Greedy decoding says the same again."""
    local = LLMJudge(model=FolderModel(path=str(tiny_model_dir)), num_retries=3)
    opened = open_pairwise(call(tmp_path / "here"), tiny_model_dir, local, None, seed=0)
    served = open_pairwise(call(tmp_path / "there"), None, LLMJudge(model=judge.model, num_retries=3), None, seed=0)
    assert (opened.num_retries, served.num_retries) == (0, 3)


def answers_of(folder: Path) -> list[dict]:
    return read_rows(folder / "completions.jsonl")


def test_gold_scores_go_on_and_say_why_they_stop(completions, tmp_path):
    """Twelve answers, of which the four of three words fail: a third. What has a score is not asked again."""
    asked = tmp_path / "asked"
    (tmp_path / "mine.py").write_text(
        f"def verify(prompt, completion, row):\n    open({str(asked)!r}, 'a').write('x')\n"
        "    if completion == 'one two three': raise ValueError('none')\n    return len(completion)\n"
    )
    verifier = VerifierJudge(function=f"{tmp_path}/mine.py:verify", max_error_rate=0.0)
    rows = [row for folder in completions for row in answers_of(folder)]
    write_jsonl(tmp_path / "scored" / "scored.jsonl", rows)
    work = call(tmp_path / "gold", scored=tmp_path / "scored")
    with pytest.raises(TooManyErrors):
        verify_rows(work, verifier, rows, 0.0)  # what a gold stage that was stopped leaves: four scores, one error
    asked.unlink()
    counts = gold(work, verifier, "content", num_prompts=400, max_error_rate=0.4)
    assert (counts["num_errors"], counts["failure"]) == (4, None)
    assert len(asked.read_text()) == 8 and not list(work.out.glob("*.journal.jsonl"))
    stopped = gold(call(tmp_path / "other", scored=tmp_path / "scored"), verifier, "content", 400, max_error_rate=0.3)
    assert "at most 30%" in stopped["failure"]


def test_a_verifier_rates_all_answers_in_one_stage(completions, tmp_path):
    (tmp_path / "mine.py").write_text("def verify(prompt, completion, row):\n    return float(len(completion))\n")
    verifier = VerifierJudge(function=f"{tmp_path}/mine.py:verify")
    rate_answers(call(tmp_path / "rated", completions=completions), verifier, "content", seed=0)
    work = call(tmp_path / "out", completions=completions, scored=[tmp_path / "rated"])
    assert rates(matrix_of_scores(work, "length", NAMES, **SETTINGS)) == LONGER_WINS


def test_names_of_the_same_weights_are_one_model(completions, tmp_path):
    """The student is round_1 under another name: its answers are the same samples of the same model."""
    write_jsonl(completions[2] / "completions.jsonl", read_rows(completions[1] / "completions.jsonl"))
    (tmp_path / "mine.py").write_text("def verify(prompt, completion, row):\n    return float(len(completion))\n")
    verifier = VerifierJudge(function=f"{tmp_path}/mine.py:verify")
    rate_answers(call(tmp_path / "rated", completions=completions), verifier, "content", seed=0)
    work = call(tmp_path / "out", completions=completions, scored=[tmp_path / "rated"])
    assert rates(matrix_of_scores(work, "length", NAMES, **SETTINGS)) == {("round_1", "base"): 1.0}
    labels = tmp_path / "labels.jsonl"
    write_jsonl(labels, [{"prompt_id": "p0", "a": "students/one", "b": "base", "preference": 1.0}])
    people = call(tmp_path / "people", completions=completions)
    result = matrix_of_labels(people, LabelsJudge(path=str(labels)), "people", "content", NAMES, **SETTINGS)
    assert rates(result) == {("round_1", "base"): 1.0}


def test_models_without_answers_or_scores_are_named(completions, tmp_path):
    rows = [{**row, "score": 1.0} for row in read_rows(completions[0] / "completions.jsonl")]
    write_jsonl(tmp_path / "rated" / "scored.jsonl", rows)
    work = call(tmp_path / "out", completions=completions, scored=[tmp_path / "rated"])
    with pytest.raises(DataError, match="answers of round_1, students/one has been scored"):
        matrix_of_scores(work, "length", NAMES, **SETTINGS)
    write_jsonl(completions[1] / "completions.jsonl", [])
    with pytest.raises(DataError, match="model round_1 has none; .*rejects.jsonl says why"):
        matrix_of_scores(work, "length", NAMES, **SETTINGS)


def test_labels_on_models_of_an_earlier_run_are_counted(completions, tmp_path):
    labels = tmp_path / "labels.jsonl"
    stale = {"a": "round_1", "b": "base", "model_a": "hash of another", "model_b": "hash of base", "preference": 1.0}
    write_jsonl(labels, [{"prompt_id": f"p{n}", **stale} for n in range(3)])
    people = call(tmp_path / "people", completions=completions)
    result = matrix_of_labels(people, LabelsJudge(path=str(labels)), "people", "content", NAMES, **SETTINGS)
    assert (result["matrix"], result["ratings"], result["labels_left_out"]) == ([], [], {"round_1": 3})


def test_labels_agree_with_another_judge_where_both_decided(completions, tmp_path):
    labels = tmp_path / "labels.jsonl"
    lines = [{"prompt_id": f"p{n}", "a": "base", "b": "round_1", "preference": float(n == 3)} for n in range(4)]
    write_jsonl(labels, lines)
    people = call(tmp_path / "people", completions=completions)
    result = matrix_of_labels(people, LabelsJudge(path=str(labels)), "people", "content", NAMES, **SETTINGS)
    assert rates(result) == {("round_1", "base"): 0.75}
    assert [row["model"] for row in result["ratings"]] == ["base", "round_1"]
    verdicts = [
        {"a": "round_1", "b": "base", "prompt_id": f"p{n}", "preference": 1.0} for n in range(4)
    ] + [{"a": "students/one", "b": "base", "prompt_id": "p0", "preference": 1.0}]
    write_jsonl(tmp_path / "gold" / "verdicts.jsonl", verdicts)
    work = call(tmp_path / "agreement", matrices=[tmp_path / "people", tmp_path / "gold"])
    (row,) = agree(work, ["people", "gold"], seed=0, num_bootstrap=50)["agreement"]
    assert (row["judge_a"], row["judge_b"], row["num_pairs"], row["agreement"]) == ("people", "gold", 4, 0.75)


def test_kl_is_the_mean_log_ratio_of_what_the_policy_said(tiny_model_dir, tiny_tokenizer, tmp_path):
    torch.manual_seed(5)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny_model_dir)).save_pretrained(tmp_path / "policy")
    tiny_tokenizer.save_pretrained(tmp_path / "policy")
    texts = ["red green blue", "the cat", "ten", ""]  # an empty answer is left out
    rows = [
        {
            "prompt_id": f"p{number}",
            "sample_index": 0,
            "prompt": [{"role": "user", "content": "say what"}],
            "completion": [{"role": "assistant", "content": text}],
            "finish_reason": "length" if text == "ten" else "stop",
        }
        for number, text in enumerate(texts)
    ]
    answers = tmp_path / "answers"
    write_jsonl(answers / "completions.jsonl", rows)
    work = call(
        tmp_path / "out", policy=tmp_path / "policy", base=tiny_model_dir, policy_answers=answers, base_answers=answers
    )
    measured = drift(work, DriftConfig(), round=2)["drift"]
    found = next(row for row in measured if row["measure"] == "kl_from_base")
    assert found["round"] == 2
    assert found["value"] == pytest.approx(by_hand(tmp_path / "policy", tiny_model_dir, texts[:3]), abs=1e-5)


def by_hand(policy: Path, base: Path, texts: list[str]) -> float:
    """Row by row in float64; the end of turn is the policy's own word except in the answer that was cut, the last."""
    tokenizer = load_tokenizer(base)
    totals = {policy: 0.0, base: 0.0}
    for folder in totals:
        model = AutoModelForCausalLM.from_pretrained(folder).double()
        for text in texts:
            head = f"<|bos|><|user|>say what<|end|><|assistant|>{text}"
            ids = tokenizer(head + ("" if text == texts[-1] else "<|end|>"), add_special_tokens=False)["input_ids"]
            num_said = len(text.split()) + (text != texts[-1])
            with torch.no_grad():
                logprobs = model(torch.tensor([ids])).logits.log_softmax(dim=-1)[0]
            said = range(len(ids) - num_said, len(ids))
            totals[folder] += sum(float(logprobs[place - 1, ids[place]]) for place in said)
    return (totals[policy] - totals[base]) / sum(len(text.split()) + (text != texts[-1]) for text in texts)

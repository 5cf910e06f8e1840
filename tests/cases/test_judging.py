"""Judges and comparisons: what does not fit, who judged, and what an average leaves out."""

import json

import pytest
from made import assistant, byte_bpe, llama, read_rows, user, write_rows
from scripted_server import ScriptedServer, chat, last_text

from posttrain.core.errors import DataError
from posttrain.engines import params_of, text_generator
from posttrain.evaluate.judge_replies import NO_REPLY, open_replies
from posttrain.evaluate.pairing import pair_rows, pair_scores
from posttrain.evaluate.win_rate import told_left_out, win_rate
from posttrain.steps.verifying import read_scored, score_counts
from reward.errors import RewardError
from reward.judges.pairwise import PairwiseJudge
from reward.verifiers.record import differences
from synth.engines.base import REFUSED, Request, refused_sample
from synth.engines.fitting import generate_fitting
from synth.engines.scripted import ScriptedEngine
from synth.prompts.dialogue import Dialogue, DialogueSampler
from synth.prompts.self_instruct import self_instruct
from synth.prompts.turns import read_turns

GREEDY = {"temperature": 0.0, "top_p": 1.0, "top_k": 0}
LONG = "red green blue cat bird fish " * 40


def answers(folder, name, texts, samples=1):
    return write_rows(
        folder / f"{name}.jsonl",
        [
            {"prompt_id": f"p{i}", "sample_index": k, "prompt": user(f"question {i}"), "completion": assistant(text)}
            for i, text in enumerate(texts)
            for k in range(samples)
        ],
    )


def yes_a(request, index, seed):
    return "Verdict: A"


@pytest.fixture(scope="module")
def tokenizer():
    return byte_bpe()


def test_no_caller_of_an_engine_sends_what_the_context_cannot_hold(tokenizer):
    """UKGovernmentBEIS, strands-agents/evals#342, EuroEval#1354: a judge is given more than its context, silently cut.

    `sample`, judges, self-instruct, magpie and dialogues all ask by one function; what does not fit is refused.
    """
    engine = ScriptedEngine(yes_a, context_tokens=128)
    params = params_of({**GREEDY, "max_completion_tokens": 32}, tokenizer, None)
    judge = open_replies(engine, tokenizer, params)
    short, long = judge([user("red"), user(LONG)])
    assert short == "Verdict: A" and long.startswith("too long") and long.endswith(NO_REPLY)
    assert text_generator(engine, tokenizer, params)([user(LONG), user("red")], 0)[0][1] == REFUSED
    assert [key for key, _ in engine.calls] == [engine.calls[0][0], "1"]  # the long ones were never asked

    dialogue = Dialogue(0, messages=[*user(LONG)])
    sampler = DialogueSampler(engine, read_turns(tokenizer), params, params, 0, "magpie", None)
    sampler._answer_params = params
    (answered,) = sampler._turns([dialogue], 1)
    assert answered[1].finish_reason == REFUSED and answered[1].text.startswith("too long")

    seeds = [{"prompt": f"say {word}"} for word in ("red", "green", LONG)]
    generate = text_generator(engine, tokenizer, params)
    _, dropped = self_instruct(seeds, generate, 2, 3, "{demonstrations}", 0, 1, max_requests=2)
    assert [row["drop_reason"].partition(":")[0] for row in dropped] == [REFUSED, REFUSED]


def test_a_verdict_that_has_no_room_at_all_is_an_error(tokenizer):
    engine = ScriptedEngine(yes_a, context_tokens=256)
    params = params_of({**GREEDY, "max_completion_tokens": 512}, tokenizer, None)
    with pytest.raises(DataError, match="context is 256 tokens.*--max-completion-tokens"):
        open_replies(engine, tokenizer, params)([user("red")])


def test_refusals_of_the_engine_and_of_the_context_are_told_together(tokenizer):
    class Refusing(ScriptedEngine):
        def generate(self, requests, params):
            yield from super().generate(requests[1:], params)
            yield refused_sample(requests[0], 0, "moderated")

    params = params_of({**GREEDY, "max_completion_tokens": 8}, tokenizer, None)
    requests = [Request(key, (1,) * length, (), (0,), (0,)) for key, length in (("a", 5), ("b", 5), ("c", 500))]
    samples = list(generate_fitting(Refusing(yes_a, context_tokens=64), requests, params))
    refused = {sample.key: sample.text for sample in samples if sample.finish_reason == REFUSED}
    assert refused == {"a": "moderated", "c": "too long: 500 tokens, the limit is 56"}


def test_a_question_that_does_not_fit_is_an_unreadable_verdict(tmp_path, run_command):
    """strands-agents/evals#342 through the command: a judge folder of 256 positions, one question of many more."""
    folder = llama(tmp_path / "judge", byte_bpe(), max_position_embeddings=256)
    template = tmp_path / "short.txt"
    template.write_text("Which?\n{prompt}\n{completion_a}\n{completion_b}\nVerdict:")
    a, b = answers(tmp_path, "a", ["red", LONG]), answers(tmp_path, "b", ["blue", "cat"])
    ran = run_command(
        "winrate", "--a", a, "--b", b, "--judge", f"llm:{folder}", "--judge-template", template, "--out",
        tmp_path / "out", "--max-completion-tokens", 8, "--json",
    )  # fmt: skip
    rows = {row["prompt_id"]: row for row in read_rows(tmp_path / "out" / "verdicts.jsonl")}
    assert rows["p1"]["verdict"] == "UNREADABLE" and all("too long" in reply for reply in rows["p1"]["replies"])
    assert not any("too long" in reply for reply in rows["p0"]["replies"])
    assert ran.code == 1 or json.loads(ran.out)["unreadable"] >= 1
    assert "of 4 replies" in ran.said  # a judge is not silent off a terminal


# ---------------------------------------------------------------- who judged


def winrate(run_command, tmp_path, judge, *more):
    a, b = answers(tmp_path, "a", ["red"] * 3), answers(tmp_path, "b", ["blue"] * 3)
    return run_command("winrate", "--a", a, "--b", b, "--judge", judge, "--out", tmp_path / "out", "--json", *more)


def test_replies_of_another_server_behind_the_same_name_are_not_mixed(tmp_path, run_command):
    """confident-ai/deepeval-like reports: a judging that was stopped goes on at another address or model."""

    def until_it_goes(body, number):
        return chat("Verdict: A") if number <= 2 else (401, {"error": {"message": "gone"}})

    with ScriptedServer(until_it_goes) as first, ScriptedServer(lambda body, number: chat("Verdict: B")) as second:
        assert winrate(run_command, tmp_path, f"llm:{first.url}").code == 1
        ran = winrate(run_command, tmp_path, f"llm:{second.url}")
        assert ran.code == 1 and not second.bodies
        assert first.url in ran.said and second.url in ran.said and "another judge" in ran.said
        first.behaviour = lambda body, number: chat("Verdict: TIE")
        assert winrate(run_command, tmp_path, f"llm:{first.url}").code == 0


def test_a_template_or_a_longest_reply_belongs_to_the_judge(tmp_path, run_command):
    template = tmp_path / "mine.txt"
    template.write_text("{prompt} {completion_a} {completion_b}")

    def until_it_goes(body, number):
        return chat("Verdict: A") if number <= 2 else (401, {"error": {"message": "gone"}})

    with ScriptedServer(until_it_goes) as server:
        assert winrate(run_command, tmp_path, f"llm:{server.url}").code == 1
        asked = len(server.bodies)
        for more in (("--judge-template", template), ("--max-completion-tokens", 99)):
            ran = winrate(run_command, tmp_path, f"llm:{server.url}", *more)
            assert ran.code == 1 and "another judge" in ran.said and len(server.bodies) == asked


def test_a_card_tells_models_of_one_name_apart_and_a_fresh_stamp_does_not():
    there = {"server": {"url": "u", "says": {"root": "/models/one", "owned_by": "vllm", "created": 5}}}
    now = {"server": {"url": "u", "says": {"root": "/models/two", "owned_by": "vllm"}}}
    assert differences(there, now) == ["server.says.root: '/models/one' there, '/models/two' now"]


def test_a_win_rate_of_another_judge_is_not_written_over(tmp_path, run_command):
    verifier = tmp_path / "mine.py"
    verifier.write_text("def verify(prompt, completion, row):\n    return float(len(completion))\n")
    judge = f"verifier:{verifier}:verify"
    assert winrate(run_command, tmp_path, judge).code == 0
    assert winrate(run_command, tmp_path, judge).code == 0
    before = (tmp_path / "out" / "win_rate.json").read_text()
    verifier.write_text("def verify(prompt, completion, row):\n    return 1.0\n")
    ran = winrate(run_command, tmp_path, judge)
    assert ran.code == 1 and "another judge" in ran.said
    assert (tmp_path / "out" / "win_rate.json").read_text() == before


# ---------------------------------------------------------------- what an average leaves out


def test_answers_without_a_score_are_counted(tmp_path, run_command):
    """UKGovernmentBEIS/inspect_ai#4286: samples that could not be scored leave the denominator, and nothing says so."""
    verifier = tmp_path / "mine.py"
    verifier.write_text(
        "def verify(prompt, completion, row):\n"
        "    if completion == 'bad' and row['sample_index'] == 0:\n        raise ValueError('no')\n    return 1.0\n"
    )
    a, b = answers(tmp_path, "a", ["bad"] * 4 + ["good"], samples=10), answers(tmp_path, "b", ["x"] * 4, samples=10)
    command = ["winrate", "--a", a, "--b", b, "--judge", f"verifier:{verifier}:verify?max_error_rate=0.5"]
    ran = run_command(*command, "--out", tmp_path / "out", "--json")
    told = {"samples_a": 4, "samples_b": 0, "prompts_only_a": 1, "prompts_only_b": 0}
    assert json.loads(ran.out)["left_out"] == told
    said = run_command(*command, "--out", tmp_path / "out").out
    assert "4 samples of A without a score" in said and "1 prompts that only A has" in said


def test_surplus_samples_and_rows_too_long_for_a_reward_model_are_counted(tmp_path):
    judge = PairwiseJudge(lambda batch: ["Verdict: A"] * len(batch))
    from posttrain.evaluate.llm_judge import compare_by_llm

    rows_a = read_rows(answers(tmp_path, "a", ["red", "cat"], samples=3))
    rows_b = read_rows(answers(tmp_path, "b", ["blue"], samples=1))
    result = win_rate(compare_by_llm(rows_a, rows_b, judge), pair_rows(rows_a, rows_b).alone)
    assert told_left_out(result) == "2 samples of A without a score or a partner; 1 prompts that only A has"

    scored = tmp_path / "scored"
    scored.mkdir()
    write_rows(scored / "scored.jsonl", [{**row, "score": 1.0} for row in rows_b])
    write_rows(scored / "rejects.jsonl", [{"line": 2, "prompt_id": "p0", "sample_index": 1, "reason": "too long"}])
    (verdict,) = pair_scores(read_scored(scored), [{**row, "score": 0.0} for row in rows_a])
    assert (verdict["left_out_a"], verdict["length_a"], verdict["preference"]) == (1, 4.0, 1.0)


def test_a_mean_counts_each_prompt_once():
    rows = [{"prompt_id": "p", "score": 1.0}] * 9 + [{"prompt_id": "q", "score": 0.0}, {"prompt_id": "q"}]
    assert score_counts(rows) == {"num_rows": 11, "num_errors": 1, "mean_score": 0.5}


def test_a_model_that_no_verdict_can_be_read_of_says_what_came(tmp_path, run_command):
    with ScriptedServer(lambda body, number: chat(f"I like {last_text(body)[:3]}")) as server:
        ran = winrate(run_command, tmp_path, f"llm:{server.url}")
    assert ran.code == 1 and "the first reply ends: 'I like" in ran.said


def test_another_judges_journal_is_refused_by_both_names(tmp_path, tokenizer):
    params = params_of({**GREEDY, "max_completion_tokens": 8}, tokenizer, None)
    journal = tmp_path / "replies.journal.jsonl"
    open_replies(ScriptedEngine(yes_a, model="one"), tokenizer, params, journal=journal)([user("red")])
    with pytest.raises(RewardError, match="engine.model: 'one' there, 'two' now"):
        open_replies(ScriptedEngine(yes_a, model="two"), tokenizer, params, journal=journal)([user("red")])

"""Servers that cut, filter, moderate, miscount, refuse parameters or stand behind a proxy."""

from __future__ import annotations

import json
import time

import pytest
from scripted_server import ScriptedServer, chat, last_text, refusal

from posttrain.core.files import read_rows, write_jsonl
from posttrain.core.journal import Journal
from synth.completions import sample_completions
from synth.engines.base import EngineError, Request, SamplingParams, sample_seed
from synth.engines.openai import OpenAIEngine
from synth.engines.recorded import RecordedEngine

PARAMS = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_completion_tokens=64, stop_ids=())
CUT, WHOLE = "length", "stop"


@pytest.fixture(autouse=True)
def quick_and_keyless(monkeypatch):
    monkeypatch.setattr("synth.engines.openai.LONGEST_BACKOFF_S", 0.01)
    monkeypatch.setattr("synth.engines.doubt.PATIENCE_S", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def ask(behaviour, number=1, **settings):
    """Return the samples of prompts "0", "1", … by key, and the server."""
    requests = [
        Request(str(i), (), ({"role": "user", "content": str(i)},), (sample_seed(0, str(i), 0),), (0,))
        for i in range(number)
    ]
    with ScriptedServer(behaviour) as server:
        engine = OpenAIEngine(server.url, "m", **{"concurrency": 2, "timeout_s": 2.0, **settings})
        samples = {sample.key: sample for sample in engine.generate(requests, PARAMS)}
    return samples, server


def sample_command(run_command, server, folder, *options):
    settings = ["--num-completions", 1, "--temperature", 1, "--seed", 0, "--max-completion-tokens", 32]
    options = ("--prompts", folder / "prompts.jsonl", "--out", folder / "out", *options)
    return run_command("sample", "--engine", "openai", "--base-url", server.url, "--model", "m", *settings, *options)


def answer(text):
    return [{"role": "assistant", "content": text}]


def write_prompts(folder, prompts):
    write_jsonl(folder / "prompts.jsonl", [{"id": f"p{i}", "prompt": text} for i, text in enumerate(prompts)])


ANSWERS = {
    "a thought that was cut (vllm-project/vllm#52640)": (chat(None, "length", 64, reasoning="Let me see"), "", CUT),
    "a thought and nothing else": (chat(None, "stop", reasoning_content="Let me see"), "", CUT),
    "an empty text beside a thought": (chat("", "stop", reasoning_content="Let me see"), "", CUT),
    "an empty answer": (chat("", "stop"), "", WHOLE),
    "a thought beside the answer": (chat("Yes.", reasoning="Verdict: B"), "Yes.", WHOLE),
    "parts": (chat([{"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "Yes."}]), "Yes.", WHOLE),  # type: ignore[arg-type]
    "eos": (chat("Yes.", "eos"), "Yes.", WHOLE),
    "end_turn": (chat("Yes.", "end_turn"), "Yes.", WHOLE),
    "stop_sequence": (chat("Yes.", "stop_sequence"), "Yes.", WHOLE),
    "capitals": (chat("Yes.", "STOP"), "Yes.", WHOLE),
    "max_tokens": (chat("Yes", "max_tokens", 64), "Yes", CUT),
    "stop at the limit (Blaizzy/mlx-vlm#1215)": (chat("Yes", "stop", 64), "Yes", CUT),
    "a server that ignores the limit": (chat("Yes " * 90, "stop", 90), "Yes " * 90, CUT),
}


def test_answers_of_every_form_are_read_once():
    wrong = {}
    for name, (reply, text, finish_reason) in ANSWERS.items():
        samples, server = ask(lambda body, number, reply=reply: reply)
        sample = samples["0"]
        if (sample.text, sample.finish_reason, len(server.bodies)) != (text, finish_reason, 1):
            wrong[name] = (sample, len(server.bodies))
    assert not wrong


# A reply to one prompt of two, words that its reject must hold, and how often it is asked for at most.
REJECTS = {
    "moderated with 403 (hyeonsangjeon/gdpval-realworks#528)": (refusal(403, "was flagged"), "was flagged", 1),
    "451": (refusal(451, "for legal reasons"), "for legal reasons", 1),
    "400": (refusal(400, "maximum context length is 512"), "maximum context length", 1),
    "422 of FastAPI": ((422, {"detail": [{"loc": ["body", "messages"], "msg": "too long"}]}), "messages: too long", 1),
    "content filter": (chat("", "content_filter"), "content filter", 1),
    "declined": (chat(None, "stop", refusal="I cannot help."), "I cannot help", 1),
    "calls a tool": (chat(None, "tool_calls", tool_calls=[{"id": "1"}]), "calls a tool", 1),
    "no finish_reason (mudler/LocalAI#788)": (chat("Yes.", None), "finish_reason is None", 1),
    "no usage": (chat("Yes.", usage=False), "usage.completion_tokens is None", 1),
    "refused inside a 200": ((200, {"error": {"code": 400, "message": "filtered"}}), "filtered", 1),
    "an error inside a 200": ((200, {"error": {"message": "overloaded"}}), "overloaded", 4),
    "no choices": ((200, {"choices": []}), "0 choices", 4),
    "two choices": ((200, {"choices": [{}, {}]}), "2 choices", 4),
    "a page": ((200, "<html>Welcome</html>"), "<html>Welcome", 4),
    "a stream": ((200, 'data: {"choices": []}\n\n'), "a stream", 4),
    "nothing": ((200, ""), "empty", 4),
    "500 for ever": (refusal(500, "CUDA error"), "CUDA error", 9),
    "a page with 502": ((502, "<html>Bad gateway</html>"), "Bad gateway", 9),
}


def test_a_prompt_that_is_never_answered_is_a_reject_in_the_servers_words_and_the_rest_goes_on():
    wrong = {}
    for name, (reply, words, most) in REJECTS.items():
        samples, server = ask(lambda body, number, reply=reply: reply if last_text(body) == "1" else chat("Yes."), 3)
        asked = sum(last_text(body) == "1" for body in server.bodies)
        ends = [samples[key].finish_reason for key in ("0", "1", "2")]
        if ends != ["stop", "refused", "stop"] or words not in samples["1"].text or asked > most:
            wrong[name] = (ends, samples["1"].text, asked)
    assert not wrong


def test_when_nothing_is_answered_the_sampling_ends_and_no_prompt_becomes_a_reject(tmp_path):
    """A key, an account or a server at fault must not turn prompts into rejects."""
    replies = {
        "401": (refusal(401, "bad key"), "bad key.*environment variable OPENAI_API_KEY"),
        "403": (refusal(403, "bad key"), "bad key.*environment variable OPENAI_API_KEY"),
        "402": (refusal(402, "no credit"), "no credit"),
        "404": (refusal(404, "no such model"), "no such model.*name"),
        "429": (refusal(429, "slow down"), "slow down"),
        "no credit": ((429, {"error": {"message": "pay", "code": "insufficient_quota"}}), "no credit left"),
        "500": (refusal(500, "CUDA error"), "CUDA error.*is the server up"),
        "no finish_reason": (chat("Yes.", None), "nothing says whether the answer is whole"),
        "400": (refusal(400, "unknown field"), "unknown field.*--dialect"),
    }
    for name, (reply, words) in replies.items():
        for number in (1, 30):  # a few prompts, and more than enough
            folder = tmp_path / f"{name} {number}"
            with ScriptedServer(lambda body, _, reply=reply: reply) as server:
                engine = OpenAIEngine(server.url, "m", concurrency=8, max_retries=1)
                with pytest.raises(EngineError, match=words):
                    sample_completions([{"prompt": f"{i}"} for i in range(number)], engine, None, 1, PARAMS, 0, folder)
            assert not (folder / "journal/samples.jsonl").read_text(), name


def test_an_account_that_runs_out_midway_costs_no_prompt(tmp_path):
    rows = [{"prompt": f"{i}"} for i in range(40)]
    for status in (401, 402, 403, 404):
        folder = tmp_path / str(status)
        full = [True]

        def behaviour(body, number, full=full, status=status):
            return chat("Yes.") if number <= 10 or not full[0] else refusal(status, "no credit")

        with ScriptedServer(behaviour) as server:
            engine = OpenAIEngine(server.url, "m", concurrency=4)
            with pytest.raises(EngineError, match="no credit"):
                sample_completions(rows, engine, None, 1, PARAMS, 0, folder)
            full[0] = False
            summary = sample_completions(rows, engine, None, 1, PARAMS, 0, folder)
        assert (summary.num_completions, summary.num_rejects) == (40, 0)


def test_refusals_are_in_the_journal_before_the_end_and_are_not_asked_again(tmp_path):
    """hyeonsangjeon/gdpval-realworks#528, hyunhwan-bcm/MARRVEL_MCP#315: the process is killed amid the rest."""
    rows = [{"id": f"p{i}", "prompt": f"{i} {'long' if i % 2 else 'short'}"} for i in range(20)]
    killed = [True]

    class Killed(Exception):
        pass

    def behaviour(body, number):
        return refusal(400, "too long") if "long" in last_text(body) else chat("Yes.")

    def progress(done, total):
        if killed[0] and done >= 15:
            raise Killed

    with ScriptedServer(behaviour) as server:
        engine = OpenAIEngine(server.url, "m", concurrency=1)
        import synth.completions

        synth.completions.REPORT_SECONDS, before = 0.0, synth.completions.REPORT_SECONDS
        try:
            with pytest.raises(Killed):
                sample_completions(rows, engine, None, 1, PARAMS, 0, tmp_path, progress=progress)
        finally:
            synth.completions.REPORT_SECONDS = before
        refused = {row["prompt_id"] for row in read_rows(tmp_path / "journal/samples.jsonl") if "reason" in row}
        assert len(refused) >= 7
        killed[0] = False
        num_before = len(server.bodies)
        summary = sample_completions(rows, engine, None, 1, PARAMS, 0, tmp_path)
        asked = {f"p{last_text(body).split()[0]}" for body in server.bodies[num_before:]}
    assert not asked & refused
    assert (summary.num_completions, summary.num_rejects) == (10, 10)


def test_a_folder_in_which_only_refused_prompts_are_left_goes_on(tmp_path):
    rows = [{"id": f"p{i}", "prompt": f"{i} {'long' if i < 10 else 'short'}"} for i in range(20)]
    write_jsonl(tmp_path / "more.jsonl", rows)
    with ScriptedServer(lambda body, number: chat("Yes.")) as server:
        engine = OpenAIEngine(server.url, "m", name="m@r")
        sample_completions(rows, engine, None, 1, PARAMS, 0, tmp_path / "out")
    done = read_rows(tmp_path / "out/completions.jsonl")[10:]
    for name in ("completions.jsonl", "rejects.jsonl", "summary.json"):
        (tmp_path / "out" / name).unlink()
    keys = ("prompt_id", "sample_index", "finish_reason", "num_tokens", "seed")
    with Journal(tmp_path / "out/journal/samples.jsonl") as journal:
        journal.append({**{key: row[key] for key in keys}, "text": "Yes."} for row in done)

    def behaviour(body, number):
        return refusal(400, "too long") if "long" in last_text(body) else chat("Yes.")

    with ScriptedServer(behaviour) as server:
        summary = sample_completions(
            rows, OpenAIEngine(server.url, "m", name="m@r"), None, 1, PARAMS, 0, tmp_path / "out"
        )
    assert (summary.num_completions, summary.num_rejects) == (10, 10)


def test_what_a_server_says_of_its_usage_is_compared(tmp_path, run_command):
    """ollama/ollama#17889, esengine/DeepSeek-Reasonix#10245, Blaizzy/mlx-vlm#1215."""
    write_prompts(tmp_path, ["some text of a long document " * 800, "short", "also short", "短い" * 2000])

    def behaviour(body, number):
        text = last_text(body)
        return chat("It goes on and", "stop", 32 if text == "short" else 9, prompt_tokens=min(8 + len(text) // 5, 512))

    with ScriptedServer(behaviour) as server:
        ran = sample_command(run_command, server, tmp_path)
    assert ran.code == 0, ran.said
    summary = json.loads(ran.out)
    assert (summary["num_completions"], summary["num_rejects"]) == (2, 2)
    flags = "\n".join(summary["flags"])
    assert "1 of 2 completions ended with 'stop' and as many tokens" in flags and "2 of 4 prompts were refused" in flags
    assert all("it read 512 tokens" in row["reason"] for row in read_rows(tmp_path / "out/rejects.jsonl"))
    ends = {row["prompt_id"]: row["finish_reason"] for row in read_rows(tmp_path / "out/completions.jsonl")}
    assert ends == {"p1": "length", "p2": "stop"}


def test_replies_that_look_odd_are_flagged_and_used(tmp_path, run_command):
    text = "some text of a long document " * 20
    odd = {
        "its counts, or what it read, are in doubt": [chat("Yes.", prompt_tokens=0), chat("Yes. " * 20)],
        "completions begin with their prompt": [chat(f"\n{text} Yes.", completion_tokens=31, prompt_tokens=130)],
    }
    for words, replies in odd.items():
        for number, reply in enumerate(replies):
            folder = tmp_path / f"{words[:9]}{number}"
            write_prompts(folder, [text])
            with ScriptedServer(lambda body, number, reply=reply: reply) as server:
                ran = sample_command(run_command, server, folder)
            assert ran.code == 0 and "1 of 1 completions" in ran.out and words in ran.out


def test_a_server_whose_answers_are_mostly_in_doubt_is_refused_and_can_be_taken(tmp_path, run_command):
    """An answer behind its own prompt: each of 300 is flagged, and past half of 256 samples the sampling ends."""
    text = "some text of a long document " * 20
    write_prompts(tmp_path, [f"{text}{number}" for number in range(300)])

    def behaviour(body, number):
        return chat(f"{last_text(body)} Yes.", completion_tokens=31, prompt_tokens=130)

    with ScriptedServer(behaviour) as server:
        ran = sample_command(run_command, server, tmp_path)
        assert ran.code == 1 and "256 of 256 answers" in ran.said and "max_doubtful_share" in ran.said
        ran = sample_command(run_command, server, tmp_path, "--max-doubtful-share", "1")
        assert ran.code == 0 and json.loads(ran.out)["num_completions"] == 300
        assert len(server.bodies) < 400  # what was drawn was kept


def test_parameters_that_a_server_refuses_are_left_out_where_they_change_nothing(tmp_path, run_command):
    """mistralai/platform-docs-public#7, Azure/azure-sdk-for-python#39909."""
    write_prompts(tmp_path, ["one", "two"])
    known = {"model", "messages", "temperature", "top_p", "max_tokens", "seed"}

    def behaviour(body, number):
        extra = sorted(set(body) - known)
        fault = {"type": "extra_forbidden", "loc": ["body", *extra[:1]], "msg": "Extra inputs are not permitted"}
        return (422, {"detail": [fault]}) if extra else chat("Yes.")

    with ScriptedServer(behaviour) as server:
        ran = sample_command(run_command, server, tmp_path)
        assert ran.code == 0, ran.said
        assert "2 of 2 completions were drawn by the server's own top_k" in ran.out
        ran = sample_command(run_command, server, tmp_path, "--top-k", 5, "--out", tmp_path / "top")
    assert ran.code == 1 and "body.top_k: Extra inputs are not permitted" in ran.said and "--dialect" in ran.said


def test_the_dialect_of_transformers_serve_can_be_chosen(tmp_path, run_command):
    write_prompts(tmp_path, ["one"])
    rows = [{"prompt_id": "p", "sample_index": 0, "prompt": "one", "completion": answer("x")}]
    for side in ("a", "b"):
        write_jsonl(tmp_path / f"{side}.jsonl", rows)

    def behaviour(body, number):
        return chat("Verdict: A") if "generation_config" in body else (422, {"detail": "Unexpected keys: {'top_k'}"})

    sides = ["--a", tmp_path / "a.jsonl", "--b", tmp_path / "b.jsonl", "--out", tmp_path / "judged"]
    with ScriptedServer(behaviour) as server:
        assert sample_command(run_command, server, tmp_path, "--dialect", "transformers").code == 0
        ran = run_command("winrate", *sides, "--judge", f"llm:{server.url}#m", "--dialect", "transformers")
    assert ran.code == 0, ran.said


def test_a_key_that_no_header_can_hold_is_refused_at_once_and_never_shown(monkeypatch):
    """apache/devlake#7132, devchat-ai/devchat#282."""
    for key, words in {
        "sk-a\u2014dash": "not ASCII",
        "sk-a\nb": "line break",
        '"sk-quoted"': "quotation marks",
    }.items():
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(EngineError, match=f"environment variable OPENAI_API_KEY .*{words}") as error:
            ask(lambda body, number: chat("Yes."))
        assert "sk-" not in str(error.value)
    for key in ("sk-test\r", " sk-test\n", ""):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        assert ask(lambda body, number: chat("Yes."))[0]["0"].text == "Yes."


def test_a_server_on_this_machine_is_asked_past_every_proxy(monkeypatch):
    """THUDM/slime#1714, EvolvingLMMs-Lab/lmms-eval#791."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert ask(lambda body, number: chat("Yes."))[0]["0"].text == "Yes."


def test_a_proxy_and_a_dead_port_are_named_in_bounded_time(monkeypatch):
    request = Request("0", (), ({"role": "user", "content": "0"},), (0,), (0,))
    monkeypatch.setenv("http_proxy", "http://someone:secret@127.0.0.1:9")
    for url, words in {
        "http://model.invalid/v1": r"through the proxy http://127\.0\.0\.1:9 \(environment variable http_proxy\)",
        "http://127.0.0.1:9/v1": "the connection failed .*is the server up",
        "http://[::1]:9/v1": "the connection failed .*is the server up",
    }.items():
        started = time.monotonic()
        with pytest.raises(EngineError, match=words) as error:
            list(OpenAIEngine(url, "m").generate([request], PARAMS))
        assert "secret" not in str(error.value) and time.monotonic() - started < 20


def test_what_a_teacher_wrote_is_not_paid_for_again(tmp_path):
    """bespokelabsai/curator#295: every reply that came before a fault is kept, refusals too."""
    requests = [Request(str(i), (), ({"role": "user", "content": str(i)},), (i, i + 100), (0, 1)) for i in range(6)]
    ill = [True]

    def behaviour(body, number):
        if last_text(body) == "2":
            return chat("", "content_filter")
        return refusal(500, "down") if ill[0] and number > 6 else chat(f"{last_text(body)} {body['seed']}")

    with ScriptedServer(behaviour) as server:

        def draw():
            engine = OpenAIEngine(server.url, "m", concurrency=1, max_retries=0, name="m@r")
            with RecordedEngine(engine, tmp_path / "journal.jsonl") as recorded:
                return {(s.key, s.sample_index): s for s in recorded.generate(requests, PARAMS)}

        with pytest.raises(EngineError):
            draw()
        ill[0], before = False, len(server.bodies)
        samples = draw()
        assert not {last_text(body) for body in server.bodies[before:]} & {"0", "1", "2"}
        assert draw() == samples
    assert len(samples) == 12 and {samples["2", k].finish_reason for k in (0, 1)} == {"refused"}


def test_a_judge_that_refuses_a_question_is_unreadable_there_and_asked_once(tmp_path, run_command):
    """strands-agents/evals#342, allenai/open-instruct#733, BuilderIO/agent-native#4861, BerriAI/litellm#39817."""
    for side, word in (("a", "good"), ("b", "bad")):
        texts = [f"A {word} answer." + (" and on" * 900 if i == 7 else "") for i in range(9)]
        rows = [
            {"prompt_id": f"p{i}", "sample_index": 0, "prompt": f"Question {i}", "completion": answer(text)}
            for i, text in enumerate(texts)
        ]
        write_jsonl(tmp_path / f"{side}.jsonl", rows)

    def behaviour(body, number):
        text = last_text(body)
        if len(text) > 6000:
            return refusal(400, "maximum context length is 2048 tokens")
        if "Question 3" in text:
            return chat(None, "length", body["max_tokens"], reasoning="Verdict: B")
        if "--- answer A" not in text:
            return chat("Rating: 5" if "good" in text else "Rating: 2")
        return chat("Verdict: A" if "good" in text.split("--- answer A")[1].split("--- answer B")[0] else "Verdict: B")

    sides = ["--a", tmp_path / "a.jsonl", "--b", tmp_path / "b.jsonl", "--json"]
    for kind in ("llm", "rubric"):
        with ScriptedServer(behaviour) as server:
            out = tmp_path / kind
            ran = run_command("winrate", *sides, "--judge", f"{kind}:{server.url}#m", "--out", out)
            assert ran.code == 0, ran.said
            result = json.loads(ran.out)
            assert (result["win_rate"], result["num_pairs"], result["unreadable"]) == (1.0, 7, 2)
            assert sum(len(last_text(body)) > 6000 for body in server.bodies) == 2

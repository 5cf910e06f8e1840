"""A language model as judge, in both orders."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from posttrain.core.errors import DataError
from posttrain.evaluate.llm_judge import Reader, compare_by_llm, open_endpoint, open_generate
from posttrain.evaluate.win_rate import win_rate
from reward.judges.pairwise import PairwiseJudge


def rows(texts):
    return [
        {
            "prompt_id": f"p{i}",
            "sample_index": 0,
            "prompt": [{"role": "user", "content": "say something"}],
            "completion": [{"role": "assistant", "content": text}],
        }
        for i, text in enumerate(texts)
    ]


def test_a_judge_that_always_says_first_gives_exactly_one_half():
    judge = PairwiseJudge(lambda conversations: ["Verdict: A" for _ in conversations])
    verdicts = compare_by_llm(rows(["x"] * 20), rows(["y y"] * 20), judge)
    result = win_rate(verdicts)
    assert (result["win_rate"], result["ties"], result["unreadable"]) == (0.5, 20, 0)
    assert (result["mean_length_a"], result["mean_length_b"]) == (1, 3)


def test_unreadable_replies_are_no_ties():
    def only_about_good(conversations):
        return ["Verdict: TIE" if "good" in turns[0]["content"] else "who knows" for turns in conversations]

    verdicts = compare_by_llm(rows(["good", "bad"]), rows(["dog", "dog"]), PairwiseJudge(only_about_good))
    result = win_rate(verdicts)
    assert (result["num_pairs"], result["ties"], result["unreadable"]) == (1, 1, 1)


def test_a_judge_that_prefers_length_is_seen_through():
    def longer(conversations):
        replies = []
        for turns in conversations:
            first, second = (turns[0]["content"].split(f"--- answer {side}")[1] for side in "AB")
            words = first.split("--- end")[0].count("word"), second.split("--- end")[0].count("word")
            replies.append(f"Verdict: {'A' if words[0] > words[1] else 'B' if words[1] > words[0] else 'TIE'}")
        return replies

    texts_a = ["word " * (8 + i % 7) for i in range(120)]
    texts_b = ["word " * (6 + (i * 3) % 8) for i in range(120)]
    result = win_rate(compare_by_llm(rows(texts_a), rows(texts_b), PairwiseJudge(longer)))
    assert result["win_rate"] > 0.65
    assert result["length_controlled"]["win_rate"] == pytest.approx(0.5, abs=0.1)


def test_a_folder_replies_to_each_conversation(tiny_model_dir):
    generate = open_generate(str(tiny_model_dir), Reader(max_completion_tokens=32))
    replies = generate([[{"role": "user", "content": "red"}], [{"role": "user", "content": "blue"}]])
    assert [type(reply) for reply in replies] == [str, str]
    assert generate([[{"role": "user", "content": "red"}]])[0] == replies[0]


class ModelList(BaseHTTPRequestHandler):
    names = ["one"]

    def do_GET(self):
        body = json.dumps({"object": "list", "data": [{"id": name, "object": "model"} for name in self.names]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


@pytest.fixture
def server():
    running = ThreadingHTTPServer(("127.0.0.1", 0), ModelList)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}/v1"
    running.shutdown()
    running.server_close()
    thread.join()


def test_a_servers_only_model_needs_no_name(server, monkeypatch):
    monkeypatch.setattr(ModelList, "names", ["one"])
    assert open_endpoint(server).model == "one"
    assert open_endpoint(f"{server}#other").model == "other"


def test_a_server_of_several_models_wants_a_name(server, monkeypatch):
    monkeypatch.setattr(ModelList, "names", ["one", "two"])
    with pytest.raises(DataError, match="offers one, two; name one: llm:http"):
        open_endpoint(server)


def test_a_server_that_is_not_there_is_our_error():
    with pytest.raises(DataError, match="did not list its models"):
        open_endpoint("http://127.0.0.1:9/v1")

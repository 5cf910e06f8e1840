"""`winrate` by a judge behind a server: both orders, rubrics, templates, and what is told of them."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from posttrain.cli import main
from posttrain.core.files import read_rows, write_rows

WORDS = re.compile(r"--- answer(?: [AB])? \w+\n(.*?)\n--- end", re.DOTALL)


def longer(question):
    """Prefer the longer of two answers, the first of equals; rate one by its words."""
    answers = WORDS.findall(question)
    if len(answers) == 1:
        return f"It has words.\nRating: {min(5, len(answers[0].split()))}" if "mute" not in answers[0] else "No."
    return f"I looked.\nVerdict: {'A' if len(answers[0]) >= len(answers[1]) else 'B'}"


class Judge(BaseHTTPRequestHandler):
    rule = staticmethod(longer)

    def do_POST(self):
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][0]["content"]
        reply = self.rule(question)
        if reply is None:
            self.send_error(401, "gone")
            return
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": reply}}
        self.reply({"id": "x", "object": "chat.completion", "choices": [choice], "usage": {"completion_tokens": 3}})

    def do_GET(self):
        self.reply({"object": "list", "data": [{"id": "judge", "object": "model"}]})

    def reply(self, content):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


@pytest.fixture(scope="module")
def server():
    running = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}/v1"
    running.shutdown()
    running.server_close()
    thread.join()


def files(tmp_path, texts_a, texts_b):
    for name, texts in (("a", texts_a), ("b", texts_b)):
        rows = [
            {
                "prompt_id": f"p{i}",
                "sample_index": 0,
                "prompt": [{"role": "user", "content": "say something"}],
                "completion": [{"role": "assistant", "content": text}],
            }
            for i, text in enumerate(texts)
        ]
        write_rows(tmp_path / f"{name}.jsonl", rows)
    return [
        "winrate",
        "--a",
        str(tmp_path / "a.jsonl"),
        "--b",
        str(tmp_path / "b.jsonl"),
        "--out",
        str(tmp_path / "out"),
    ]


def test_flips_and_hollow_answers_are_told(tmp_path, server, capsys):
    # A is longer, A is longer, B is longer, equal: the judge takes the first then, and flips
    command = files(tmp_path, ["red green", "blue cat", ":", "dog"], ["red", "blue", "bird", "cat"])
    assert main([*command, "--judge", f"llm:{server}", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["wins"], result["losses"], result["ties"], result["unreadable"]) == (2, 1, 1, 0)
    assert result["flip_rate"] == 0.25
    assert result["flags"] == {"hollow_a": 1}
    assert result["judge"]["judge"] == f"llm:{server}" and "{completion_a}" in result["judge"]["template"]
    verdicts = read_rows(tmp_path / "out" / "verdicts.jsonl")
    assert [verdict["flipped"] for verdict in verdicts] == [False, False, False, True]
    assert verdicts[0]["replies"] == ["I looked.\nVerdict: A", "I looked.\nVerdict: B"]


def test_a_rubric_rates_each_alone_and_equal_ratings_tie(tmp_path, server, capsys):
    command = files(tmp_path, ["red green blue", "cat", "one", "mute"], ["red", "dog", "one two", "cat"])
    assert main([*command, "--judge", f"rubric:{server}", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["wins"], result["ties"], result["losses"], result["unreadable"]) == (1, 1, 1, 1)
    assert "flip_rate" not in result
    assert result["judge"]["template"].startswith("# After the five-point additive rubric")
    verdicts = read_rows(tmp_path / "out" / "verdicts.jsonl")
    assert (verdicts[0]["ratings_a"], verdicts[0]["ratings_b"]) == ([3.0], [1.0])
    assert (verdicts[3]["preference"], verdicts[3]["replies_a"], verdicts[3]["unreadable_ratings"]) == (
        None,
        ["No."],
        1,
    )


@pytest.mark.parametrize("kind", ["llm", "rubric"])
def test_a_judge_that_goes_is_asked_no_question_twice(tmp_path, server, capsys, monkeypatch, kind):
    asked, num_questions = [], 12  # both orders of six pairs, or each of twelve answers

    def until_it_goes(question):
        asked.append(question)
        return longer(question) if len(asked) <= 5 else None

    texts = ["red", "red green", "red", "dog", "cat", "bird cat"]
    command = [*files(tmp_path, texts, ["one two", "one", *texts[2:]]), "--judge", f"{kind}:{server}", "--json"]
    monkeypatch.setattr(Judge, "rule", staticmethod(until_it_goes))
    assert main(command) == 1 and "status 401" in capsys.readouterr().err
    replied, before = sorted(asked[:5]), len(asked)
    monkeypatch.setattr(Judge, "rule", staticmethod(lambda question: asked.append(question) or longer(question)))
    assert main(command) == 0
    assert len(asked) - before == num_questions - 5
    again = json.loads(capsys.readouterr().out)
    assert not list((tmp_path / "out").glob("*.journal.jsonl"))
    assert main(command) == 0  # no reply is kept behind the verdicts: all is asked anew
    assert json.loads(capsys.readouterr().out) == again
    assert sorted(replied + asked[before:-num_questions]) == sorted(asked[-num_questions:])


def test_a_template_of_ones_own_is_asked_and_recorded(tmp_path, server, capsys):
    template = tmp_path / "mine.txt"
    text = "# by us\nWhich?\n{prompt}\n--- answer A x\n{completion_a}\n--- end\n--- answer B x\n{completion_b}\n--- end"
    template.write_text(text)
    command = files(tmp_path, ["red green"], ["red"])
    assert main([*command, "--judge", f"llm:{server}", "--judge-template", str(template), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["judge"]["template"] == text


@pytest.mark.parametrize(
    ("judge", "text", "told"),
    [
        ("llm:http://127.0.0.1:9/v1", "{prompt}", "lacks {completion_a}, {completion_b}"),
        ("rubric:http://127.0.0.1:9/v1", "{prompt}", "lacks {completion}"),
        ("labels:x", "{prompt}", "reads no template"),
    ],
)
def test_a_template_that_cannot_be_used_shows_before_the_judge_is_asked(tmp_path, capsys, judge, text, told):
    (tmp_path / "mine.txt").write_text(text)
    command = files(tmp_path, ["red"], ["blue"])
    assert main([*command, "--judge", judge, "--judge-template", str(tmp_path / "mine.txt")]) == 1
    assert told in capsys.readouterr().err

import random
from collections import Counter

import pytest

from posttrain.core.formats import check_rows, prompt_id
from synth.errors import SynthError
from synth.prompts.scaffold import ScaffoldFinder
from synth.prompts.self_instruct import Demonstration, draw_demonstrations, self_instruct
from synth.prompts.template import fill, load_template

ONE = "examples\n{demonstrations}\nwrite another task of this kind"
LIST = "{num_demonstrations} tasks:\n{demonstrations}\nadd {num_new} more from {next_number}"


def seeds(num):
    rng = random.Random(num)
    return [
        {"prompt": [{"role": "user", "content": " ".join(f"seed{rng.randrange(10**6)}" for _ in range(6))}]}
        for _ in range(num)
    ]


class Writer:
    """Answer each request by `reply(number of the request)`, and record what was asked."""

    def __init__(self, reply):
        self.reply = reply
        self.requests = []
        self.seeds = []

    def __call__(self, requests, seed):
        self.seeds.append(seed)
        replies = []
        for messages in requests:
            replies.append(self.reply(len(self.requests)))
            self.requests.append(messages[0]["content"])
        return replies


def fresh(number, words=6):
    rng = random.Random(f"fresh {number}")
    return " ".join(f"new{rng.randrange(10**6)}" for _ in range(words))


def run(writer, num_prompts=10, num_demonstrations=8, template=ONE, seed=1, **changes):
    return self_instruct(seeds(20), writer, num_prompts, num_demonstrations, template, seed, 3, **changes)


def test_one_task_per_reply():
    writer = Writer(lambda number: (fresh(number), "stop"))
    rows, dropped = run(writer)
    assert [row["prompt"] for row in rows] == [[{"role": "user", "content": fresh(number)}] for number in range(10)]
    assert dropped == []
    assert len(writer.requests) == 10
    for number, row in enumerate(rows):
        assert row["prompt_id"] == prompt_id(row["prompt"])
        assert (row["source"], row["round"], row["request"]) == ("self_instruct", 3, number)
    check_rows(rows, "prompt", "self-instruct")


def test_requests_show_people_and_machine_drawn_by_seed_and_request():
    writer = Writer(lambda number: (fresh(number), "stop"))
    rows, _ = run(writer, num_prompts=40, requests_per_wave=8)
    by_id = {prompt_id(row["prompt"]): row["prompt"][0]["content"] for row in [*seeds(20), *rows]}
    for number, request in enumerate(writer.requests):
        lines = request.split("\n")[1:-1]
        assert [by_id[name] for name in rows[number]["demonstrations"]] == [line.split(". ")[1] for line in lines]
        assert [line.split(". ")[0] for line in lines] == [str(n) for n in range(1, 9)]
        texts = [line.split(". ")[1] for line in lines]
        assert len(set(texts)) == 8
        assert sum(text.startswith("new") for text in texts) == (0 if number < 8 else 2)
    again = Writer(lambda number: (fresh(number), "stop"))
    run(again, num_prompts=40, requests_per_wave=8)
    assert again.requests == writer.requests
    other = Writer(lambda number: (fresh(number), "stop"))
    run(other, num_prompts=40, requests_per_wave=8, seed=2)
    assert sum(a != b for a, b in zip(other.requests, writer.requests, strict=True)) >= 39
    assert set(other.seeds).isdisjoint(writer.seeds)
    assert len(set(writer.seeds)) == 5


def test_demonstrations_are_drawn_evenly():
    people = [Demonstration(str(n), f"text {n}") for n in range(20)]
    drawn = Counter(one.name for n in range(2000) for one in draw_demonstrations(people, [], 8, 2, 0, n))
    # 800 each; four standard deviations of a binomial with p = 0.4 are 88
    assert all(abs(count - 800) < 88 for count in drawn.values()) and len(drawn) == 20


def test_lists_are_split_and_a_cut_reply_loses_its_last_item():
    def reply(number):
        items = [f"{n + 9}. {fresh(f'{number} {n}')}" for n in range(3)]
        return "Here you are:\n" + "\n".join(items), "length" if number == 0 else "stop"

    writer = Writer(reply)
    rows, dropped = run(writer, num_prompts=16, template=LIST)
    assert writer.requests[0].startswith("8 tasks:\n1. ") and writer.requests[0].endswith("add 8 more from 9")
    texts = [row["prompt"][0]["content"] for row in rows]
    assert texts[:4] == [fresh("0 0"), fresh("0 1"), fresh("1 0"), fresh("1 1")]
    assert len(rows) == 16 and all(row["drop_reason"] == "surplus" for row in dropped)


def test_drops_have_reasons_and_counts_add_up():
    seed_text = seeds(20)[4]["prompt"][0]["content"]
    replies = [
        (fresh(0), "stop"),
        (fresh(0), "stop"),
        (seed_text, "stop"),
        (" ".join([*seed_text.split()[:-1], "other"]), "stop"),
        ("too short", "stop"),
        ("word " * 151, "stop"),
        ("now do the following for me:", "stop"),
        ("please write another task of this kind now", "stop"),
        ("put it where {demonstrations} stands", "stop"),
        ("cut in the mid", "length"),
        ("  ", "stop"),
    ]
    writer = Writer(lambda number: replies[number])
    rows, dropped = run(writer, num_prompts=11, max_requests=11)
    assert len(rows) == 1
    kinds = [row["drop_reason"].split(":")[0] for row in dropped]
    assert kinds == ["known", "known", "known", "too_short", "too_long", "unfinished"] + ["scaffold"] * 2 + [
        "truncated",
        "empty",
    ]
    assert "word for word" in dropped[1]["drop_reason"] and "ROUGE-L 0.83" in dropped[2]["drop_reason"]


def test_prompts_of_earlier_rounds_are_known():
    earlier = [{"prompt": [{"role": "user", "content": fresh(0)}], "prompt_id": "from-round-1"}]
    rows, dropped = run(Writer(lambda number: (fresh(number), "stop")), num_prompts=3, known=earlier)
    assert [row["request"] for row in rows] == [1, 2, 3]
    assert dropped[0]["drop_reason"] == "known: from-round-1 with ROUGE-L 1.00"


def test_without_a_threshold_only_the_same_words_are_known():
    texts = ["add the numbers one two", "add the numbers one three", "add the numbers one two"]
    writer = Writer(lambda number: (texts[number % 3], "stop"))
    rows, dropped = run(writer, num_prompts=3, max_rouge_l=None, max_requests=6)
    assert [row["prompt"][0]["content"] for row in rows] == texts[:2]
    assert len(dropped) == 4


def test_a_model_that_repeats_itself_ends_the_search():
    writer = Writer(lambda number: (fresh(0), "stop"))
    rows, dropped = run(writer, num_prompts=5)
    assert (len(rows), len(dropped), len(writer.requests)) == (1, 9, 10)


def test_what_cannot_work_is_refused():
    writer = Writer(lambda number: (fresh(number), "stop"))
    with pytest.raises(SynthError, match="no slot {demonstrations}"):
        run(writer, template="write a task")
    with pytest.raises(SynthError, match="shows 21 demonstrations, and the seeds hold 20"):
        run(writer, num_demonstrations=21)
    with pytest.raises(SynthError, match="sent 3 requests and got 0 replies"):
        self_instruct(seeds(20), lambda requests, seed: [], 3, 8, ONE, 1, 1)
    assert writer.requests == []


def test_dialogues_are_no_demonstrations_and_texts_are_flattened():
    rows = [
        {"prompt": [{"role": "user", "content": "sort these:\n\n  b a\n"}]},
        {"prompt": [{"role": "user", "content": "translate the following:"}]},
        {
            "prompt": [
                {"role": "user", "content": "hello"},
                {"role": "assistant", "content": "hi"},
                {"role": "user", "content": "bye"},
            ]
        },
    ]
    writer = Writer(lambda number: (fresh(number), "stop"))
    self_instruct(rows, writer, 1, 2, ONE, 1, 1)
    shown = {line[3:] for line in writer.requests[0].split("\n")[1:-1]}
    assert shown == {"sort these: b a", "translate the following"}


def test_templates_lose_their_first_line_and_hold_what_is_needed(tmp_path):
    for name in ("self_instruct", "self_instruct_one"):
        text = load_template(name)
        assert "{demonstrations}" in text and "Wang" not in text and "arXiv" not in text
    own = tmp_path / "own.txt"
    own.write_text("# from a paper\nmore like\n{demonstrations}", encoding="utf-8")
    assert load_template(str(own)) == "more like\n{demonstrations}"
    with pytest.raises(SynthError, match="no template 'nowhere'.*self_instruct"):
        load_template("nowhere")


def test_fill_leaves_other_braces_and_does_not_read_values():
    assert fill('{"a": {x}}', {"x": "{y}"}) == '{"a": {y}}'
    with pytest.raises(SynthError, match="slot {z} is unknown; expected {x}"):
        fill("{z}", {"x": "1"})


def test_scaffold_fragments():
    finder = ScaffoldFinder(load_template("self_instruct"))
    assert finder.find("Go on with this numbered list") == "go on with this numbered"
    assert finder.find("Give nothing but the list") is not None
    assert finder.find("Write a poem about the sea, give me a list of rhymes") is None
    assert finder.find("see {next_number} for more") == "{next_number}"
    # What a demonstration says itself is no leak.
    assert (
        ScaffoldFinder("write the new task", allowed=["please write the new task"]).find("write the new task") is None
    )

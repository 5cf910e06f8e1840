"""No text in an answer gives a verdict by itself: not through the judge's reply, and not through its prompt."""

import random
import re
import unicodedata
from collections import Counter

import pytest
from planted_texts import HOLLOW, PLANTED, TURNS
from stock_templates import FAMILIES, SHIPPED, Family, stock_tokenizer

from posttrain.core.chat import encode_prompt
from posttrain.core.control_forms import CONTROL_FORM, break_forms, fold
from posttrain.core.control_tokens import control_tokens
from reward.judges.pairwise import TEMPLATE, PairwiseJudge, is_hollow
from reward.judges.parse import parse_rating, parse_verdict
from reward.judges.quoting import fill, quote, read_template
from reward.judges.rubric import RubricJudge

PROMPT = [{"role": "user", "content": "Which city is the capital of France?"}]


def pair(a, b):
    return {"prompt_id": "p", "prompt": PROMPT, "completion_a": a, "completion_b": b}


def answers_in(question):
    found = re.findall(r"^--- answer(?: [AB])? (\w+)\n(.*?)\n--- end of answer(?: [AB])? \1$", question, re.M | re.S)
    return [text for _, text in found]


def otherwise(results, key, expected):
    """Give the names of the planted texts, in their order, for which a judge's result is not what is expected."""
    pairs = zip(PLANTED, results, strict=True)
    return {name: result[key] for name, result in pairs if result[key] != expected}


# Ways in which a model may change what it quotes.
SLOPPY = {
    "word for word": lambda text: text,
    "in compatible letters": lambda text: unicodedata.normalize("NFKC", text),
    "without what is invisible": lambda text: "".join(c for c in text if unicodedata.category(c) != "Cf"),
    "in plain small letters": lambda text: fold(text).text,
    "with single spaces": lambda text: re.sub(r"[^\S\n]+", " ", text),
    "in capitals": str.upper,
}


def test_there_are_many():
    assert len(PLANTED) >= 60


@pytest.mark.parametrize("change", SLOPPY.values(), ids=SLOPPY)
def test_a_judge_that_ends_in_the_candidates_words_gives_no_verdict(change):
    num_replies = 0

    def parrot(batch):
        nonlocal num_replies
        num_replies += len(batch)
        said = [change(answers_in(m[0]["content"])[0]) for m in batch]
        return [f"My verdict, after thought, in words of the first answer:\n{text}" for text in said]

    verdicts = PairwiseJudge(parrot, num_retries=0).compare([pair(text, text) for text in PLANTED.values()])
    assert num_replies == 2 * len(PLANTED)
    assert otherwise(verdicts, "verdict", "UNREADABLE") == {}
    rows = [{"prompt_id": "p", "prompt": PROMPT, "completion": text} for text in PLANTED.values()]
    assert otherwise(RubricJudge(parrot, num_retries=0).rate(rows), "score", None) == {}


def test_a_judge_that_quotes_and_then_decides_is_read_as_it_decides():
    def quoting(batch):
        return [
            "The answers say\n"
            + "\nand\n".join(answers_in(m[0]["content"]))
            + f"\nOnly one is right.\nVerdict: {'A' if answers_in(m[0]['content'])[0] == 'Paris' else 'B'}"
            for m in batch
        ]

    judge = PairwiseJudge(quoting, num_retries=0)
    assert otherwise(judge.compare([pair(text, "Paris") for text in PLANTED.values()]), "verdict", "B") == {}
    assert otherwise(judge.compare([pair("Paris", text) for text in PLANTED.values()]), "verdict", "A") == {}
    rubric = RubricJudge(lambda batch: [f"It says\n{answers_in(m[0]['content'])[0]}\nRating: 2" for m in batch])
    rows = [{"prompt_id": "p", "prompt": PROMPT, "completion": text} for text in PLANTED.values()]
    assert otherwise(rubric.rate(rows), "score", 2.0) == {}


def test_a_text_in_the_prompt_gives_no_verdict_either():
    def parrot(batch):
        return [m[0]["content"].split("--- end of conversation")[0] for m in batch]

    asked = [[{"role": "user", "content": f"Say:\n{text}"}] for text in PLANTED.values()]
    verdicts = PairwiseJudge(parrot, num_retries=0).compare([pair("x", "y") | {"prompt": prompt} for prompt in asked])
    assert otherwise(verdicts, "verdict", "UNREADABLE") == {}


def test_a_judge_that_repeats_its_whole_prompt_gives_no_verdict():
    (verdict,) = PairwiseJudge(lambda batch: [m[0]["content"] for m in batch]).compare([pair("x", "y")])
    assert verdict["votes"] == ["UNREADABLE", "UNREADABLE"]


@pytest.mark.parametrize(
    "reply",
    ["Verdict: A\nVerdict: B", "<think>\nperhaps\nVerdict: A", "Verdict: A\n[cut at the token limit]"],
)  # fmt: skip
def test_lists_of_verdicts_and_unfinished_replies_are_unreadable(reply):
    assert parse_verdict(reply) == "UNREADABLE"


def test_thoughts_that_end_are_left_behind():
    assert parse_verdict("<think>\nVerdict: A\nno\n</think>\nVerdict: B\n") == "B"
    assert parse_rating("<think>\nRating: 1\n</think>\nso\nRating: 4", 1, 5) == 4.0


def test_random_compositions_of_the_parsers_signs_are_never_read():
    chance = random.Random(0)
    gaps = [*[""] * 30, *' *`"\n)_\u200b\u200d\u2028\N{NO-BREAK SPACE}', "**", "> "]
    starts = ["", "", "so\n", "# ", "> ", "final ", "(quoted) "]
    ends = ["", "", "", "]]", "]］", "\n", ".", "\n```", "</s>"]
    words = ["Verdict", "VERDICT", "verdict", "Ｖerdict", "V\u0435rdict", "Rating", "[[", "［["]
    colons, values = [":", ":", ":", "：", "﹕", "", "::"], ["A", "b", "TIE", "5", "4/5", "Ａ"]
    slots = (starts, gaps, words, gaps, colons, gaps, values, gaps, ends)
    found = Counter()
    for _ in range(1200):
        text = "".join(chance.choice(slot) for slot in slots)
        for name, change in SLOPPY.items():
            for form, counter in ((change(text), "as written"), (change(quote(text)), "quoted")):
                is_read = parse_verdict(form) != "UNREADABLE" or parse_rating(form, 1, 5) is not None
                found[counter, name] += is_read
    assert {name: found["quoted", name] for name in SLOPPY} == dict.fromkeys(SLOPPY, 0)
    assert min(found["as written", name] for name in SLOPPY) >= 50  # else only harmless texts were looked at


def test_quoting_twice_changes_no_control_token_any_more():
    quoted = [quote(text) for text in (*PLANTED.values(), "<|a|><|b|>", "<<s>s>")]
    assert [once for once in quoted if break_forms(once) != once or CONTROL_FORM.search(fold(once).text)] == []


@pytest.mark.parametrize(
    "text",
    [
        "xs |> map (<|>) ys; a <| b |> c",
        "np.array([[1, 2], [3, 4]]); a[b[0]] < 3 > 2",
        "<div class='x'><b>bold</b></div>",
        "Приговор: виновен. Η ετυμηγορία: ένοχος. 判决：有罪",
        "می\u200cخواهم 👩\u200d👧 क्\u200dष",
        "The jury gave its verdict. A rating of 5 is high",
    ],
)
def test_harmless_texts_stay_as_they_are(text):
    assert quote(text) == text


def test_what_no_tokenizer_takes_does_not_stop_the_judge(tiny_tokenizer):
    question = PairwiseJudge(lambda batch: [])._question(pair("\ud800 and \U00100000", "fine"), swap=False)
    assert encode_prompt(tiny_tokenizer, [{"role": "user", "content": question}])


# ---------------------------------------------------------------- the judge's prompt as tokens

DEEPSEEK = Family(
    SHIPPED / "deepseekv3.jinja", "<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", True,
    ("<｜User｜>", "<｜Assistant｜>", "<｜tool▁calls▁begin｜>"),
)  # fmt: skip
JUDGES = (*FAMILIES, "deepseek")


@pytest.fixture(scope="module")
def tokenizers():
    return {name: stock_tokenizer(name) for name in (*FAMILIES, "deepseek")}


@pytest.fixture(scope="module", autouse=True)
def deepseek():
    FAMILIES["deepseek"] = DEEPSEEK
    yield
    del FAMILIES["deepseek"]


def special_ids(tokenizer, ids):
    return [token for token in ids if token in control_tokens(tokenizer).ids]


@pytest.mark.parametrize("judge", JUDGES)
def test_no_special_token_of_the_judges_prompt_comes_from_a_candidate(tokenizers, judge):
    tokenizer = tokenizers[judge]
    template = read_template(TEMPLATE, ["prompt"])

    def question(texts):
        quoted = "\n".join(quote(text) for text in texts)
        content = fill(template, {"prompt": quoted, "completion_a": quoted, "completion_b": "x"})
        return [{"role": "user", "content": content}]

    harmless = special_ids(tokenizer, encode_prompt(tokenizer, question(["Paris"])))
    assert len(harmless) >= 2
    planted = question(PLANTED.values())
    assert special_ids(tokenizer, encode_prompt(tokenizer, planted)) == harmless
    # A server renders and tokenises the messages itself, with every special token switched on.
    rendered = tokenizer.apply_chat_template(planted, tokenize=False, add_generation_prompt=True)
    for form in (rendered, unicodedata.normalize("NFKC", rendered)):
        found = special_ids(tokenizer, tokenizer(form, add_special_tokens=False)["input_ids"])
        assert len(found) <= len(harmless), tokenizer.convert_ids_to_tokens(found)


@pytest.mark.parametrize("judge", JUDGES)
def test_unquoted_some_of_these_texts_would_have_become_special_tokens(tokenizers, judge):
    tokenizer = tokenizers[judge]
    found = [name for name, text in TURNS.items() if special_ids(tokenizer, tokenizer(text)["input_ids"][1:])]
    assert found


def test_every_control_token_of_the_stock_families_has_a_known_form(tokenizers):
    assert len(tokenizers) >= 16
    for name, tokenizer in tokenizers.items():
        for token in control_tokens(tokenizer).edges:
            assert CONTROL_FORM.fullmatch(fold(token).text), (name, token)


@pytest.mark.parametrize("text", HOLLOW.values(), ids=HOLLOW)
def test_answers_that_say_nothing_are_flagged(text):
    assert is_hollow(text)
    (verdict,) = PairwiseJudge(lambda batch: ["Verdict: TIE"] * 2).compare([pair(text, "Paris")])
    assert verdict["flags"] == ["hollow_a"]


@pytest.mark.parametrize("text", ["4", "A", "Paris", "Solution: 4", "解く"])
def test_short_answers_are_not(text):
    assert not is_hollow(text)

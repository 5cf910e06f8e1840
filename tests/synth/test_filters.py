import copy
import json
import random

import pytest

from synth.dedup.exact import exact_duplicates
from synth.errors import SynthError
from synth.filters.control_tokens import drop_control_tokens
from synth.filters.language import KNOWN, check_languages, main_language
from synth.filters.length import keep_token_count, keep_word_count
from synth.filters.partition import check_drop_rate, clean
from synth.filters.phrases import drop_phrases
from synth.filters.refusal import cap_refusals, label_refusals, refusal_verdict
from synth.filters.repetition import drop_repetition, repeated_share
from synth.filters.script import (
    drop_mixed_scripts,
    keep_script_of_prompt,
    keep_scripts,
    main_script,
    script_shares,
)
from synth.filters.truncated import drop_truncated


def ask(text, **columns):
    return {"prompt": [{"role": "user", "content": text}], **columns}


def answer(text, prompt="a question", **columns):
    return ask(prompt, completion=[{"role": "assistant", "content": text}], **columns)


def reasons(dropped):
    return [row["drop_reason"] for row in dropped]


FILTERS = {
    "words": lambda rows: keep_word_count(rows, 2, 30),
    "tokens": lambda rows: keep_token_count(rows, lambda messages: sum(len(m["content"]) for m in messages), 5, 200),
    "answer": lambda rows: keep_word_count(rows, 1, 30, part="completion"),
    "repetition": lambda rows: drop_repetition(rows, 0.3),
    "truncated": drop_truncated,
    "phrases": lambda rows: drop_phrases(rows, ["an image"]),
    "scripts": lambda rows: keep_scripts(rows, ["LATIN"]),
    "mixed": drop_mixed_scripts,
    "script of prompt": keep_script_of_prompt,
    "refusals": lambda rows: cap_refusals(rows, 0.1),
    "exact": exact_duplicates,
}
STRANGE = [
    {},
    {"prompt": None},
    {"prompt": []},
    {"prompt": [{"role": "user"}]},
    {"prompt": [{"role": "user", "content": None}]},
    {"prompt": ["text"]},
    ask(""),
    ask("x" * 1_000_000),
    ask("half a pair \ud800"),
    ask("\ufeffmark \x00 and nul"),
    ask("‫שלום‬ עולם 🙂"),
    {"prompt": "a plain text"},
    {"messages": [{"role": "user", "content": "hi there"}, {"role": "assistant", "content": "hello"}]},
    answer(""),
    {**ask("hi"), "completion": None},
]


@pytest.mark.parametrize("name", FILTERS)
def test_every_row_comes_back_once_and_untouched(name):
    rng = random.Random(0)
    words = ["say", "the", "word", "apple", "moon", "дом", "cat", "image", "an", "3", "I", "can't", "help", "you", "月"]
    rows = [
        answer(
            " ".join(rng.choices(words, k=rng.randint(0, 12))),
            " ".join(rng.choices(words, k=rng.randint(0, 8))),
            finish_reason=rng.choice(["stop", "length", None]),
            row=number,
            foreign={"key": [number]},
        )
        for number in range(200)
    ]
    for given in (rows, STRANGE, rows[:1], []):
        before = copy.deepcopy(given)
        kept, dropped = FILTERS[name](given)
        assert given == before
        assert len(kept) + len(dropped) == len(given)
        assert all(row["drop_reason"] for row in dropped) and not any("drop_reason" in row for row in kept)
    kept, dropped = FILTERS[name](rows)
    assert [row["row"] for row in kept] == sorted(row["row"] for row in kept)
    assert [row["row"] for row in dropped] == sorted(row["row"] for row in dropped)
    for row in kept + dropped:
        assert {key: row[key] for key in rows[0]} == rows[row["row"]]


def test_length_in_words_and_tokens():
    rows = [ask("one two"), ask("one two three"), ask("one two three four five"), ask("  ")]
    kept, dropped = keep_word_count(rows, 3, 4)
    assert kept == [rows[1]]
    assert reasons(dropped) == ["too_short: 2 < 3", "too_long: 5 > 4", "empty"]
    seen = []

    def count(messages):
        seen.append(messages)
        return 10 * len(messages)

    with_system = {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}
    kept, dropped = keep_token_count([ask("u"), with_system], count, 1, 15)
    assert (len(kept), reasons(dropped)) == (1, ["too_long: 20 > 15"])
    kept, _ = keep_token_count([answer("four")], count, 1, 15, part="completion")
    assert seen[-1] == [{"role": "assistant", "content": "four"}] and len(kept) == 1


def test_words_are_counted_in_scripts_without_spaces():
    kept, _ = keep_word_count([ask("今天天气怎么样"), ask("ทำอย่างไร")], 7, 8)
    assert len(kept) == 2


def test_control_tokens_in_any_role_and_in_tool_arguments(tiny_tokenizer):
    call = {"type": "function", "function": {"name": "f", "arguments": json.dumps({"a": "\u003c|end|\u003e"})}}
    hidden = json.dumps({"a": "x"}).replace("x", "\\u003c|end|\\u003e")
    hidden_call = {"type": "function", "function": {"name": "f", "arguments": hidden}}
    rows = [
        ask("say <|end|> now"),
        {"prompt": [{"role": "system", "content": "<|bos|>"}, {"role": "user", "content": "hi"}]},
        answer("well <|user|> hi"),
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None, "tool_calls": [call]}]},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "tool_calls": [hidden_call]}]},
        ask("say |end| <end> now"),
    ]
    kept, dropped = drop_control_tokens(rows, tiny_tokenizer)
    assert kept == rows[-1:]
    assert reasons(dropped) == [f"control_token: {t}" for t in ("<|end|>", "<|bos|>", "<|user|>", "<|end|>", "<|end|>")]


def test_repetition():
    # words 4 to 9 repeat the 3-gram "one two three": 6 of 9
    assert repeated_share("one two three one two three One, two: three", 3) == pytest.approx(6 / 9)
    assert repeated_share("the answer is : cat . the answer is : cat .", 4) == pytest.approx(4 / 8)
    assert repeated_share("one two three", 4) == 0 and repeated_share("", 4) == 0
    rows = [answer("a b c d e f g h"), answer("a b c d a b c d"), answer("n" + "o" * 25), answer("-" * 40 + " a title")]
    kept, dropped = drop_repetition(rows, 0.3)
    assert kept == [rows[0], rows[3]]
    assert reasons(dropped) == ["repetition: 0.50 > 0.3", "repeated_character"]


def test_truncated():
    rows = [answer("a", finish_reason=reason) for reason in ("stop", "length", "content_filter", None)] + [answer("a")]
    kept, dropped = drop_truncated(rows)
    assert kept == rows[:1]
    assert reasons(dropped) == [
        "truncated",
        "finish_reason_unknown: 'content_filter'",
        "finish_reason_unknown: None",
        "finish_reason_unknown: None",
    ]


def test_phrases_are_whole_words():
    rows = [ask("Draw an Image, please"), ask("an imagery of words"), ask("the graph")]
    kept, dropped = drop_phrases(rows, ["an image", "GRAPH", "..."])
    assert kept == [rows[1]] and reasons(dropped) == ["phrase: an image", "phrase: GRAPH"]


# ---------------------------------------------------------------- scripts


def test_script_shares():
    assert script_shares("abc где") == {"CYRILLIC": 0.5, "LATIN": 0.5}
    assert script_shares("今天天气") == {"HAN": 1.0}
    assert script_shares("今日は天気") == {"JAPANESE": 1.0}
    assert (
        main_script("안녕하세요") == "HANGUL"
        and main_script("สวัสดี") == "THAI"
        and main_script("नमस्ते दुनिया") == "DEVANAGARI"
    )
    assert script_shares("12 + 3 = 15") == {} and main_script("ok") is None
    assert (
        main_script("Объясни `print(hello_world_of_letters)` и ```python\nfor x in range(10): pass\n```") == "CYRILLIC"
    )


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("the train to the village leaves in the morning", "en"),
        ("der Zug ins Dorf fährt am Morgen ab", "de"),
        ("le train pour le village part le matin", "fr"),
        ("el tren al pueblo sale por la mañana", "es"),
        ("Voici le programme : ```for the in of and is: that```", "fr"),  # code has no language
        ("```the of and is that```", None),
        ("8 , 17 .", None),
        ("ok", None),
        ("", None),
    ],
)
def test_languages_of_one_script(text, language):
    assert main_language(text, ["en", "de", "fr", "es"]) == language


def test_of_two_languages_a_coin_is_not_tossed():
    assert main_language("x = 1; y = x", ["en", "de"]) is None
    assert main_language("the train leaves in the morning", ["en", "de"]) == "en"


def test_unknown_languages_are_refused():
    with pytest.raises(SynthError, match="languages klingon, xx are not known; there are: .*de, .*en"):
        check_languages(["en", "xx", "klingon"])
    with pytest.raises(SynthError, match="languages xx are not known"):
        main_language("the train", ["en", "xx"])


def test_known_languages_are_those_of_the_library():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    assert sorted(LanguageIdentifier.from_model_file(MODEL_FILE).labels) == sorted(KNOWN)


def test_scripts_of_a_recipe():
    rows = [ask("say hello"), ask("скажи привет"), ask("你好吗朋友"), ask("2 + 2")]
    kept, dropped = keep_scripts(rows, ["LATIN", "CYRILLIC"])
    assert kept == [rows[0], rows[1], rows[3]] and reasons(dropped) == ["script: HAN"]
    with pytest.raises(SynthError, match="KLINGON"):
        keep_scripts(rows, ["KLINGON"])
    kept, dropped = drop_mixed_scripts([ask("say привет мир"), ask("say hello мир once more")], 0.8)
    assert len(kept) == 1 and reasons(dropped) == ["mixed_scripts: CYRILLIC LATIN"]


def test_answers_in_the_script_of_the_question():
    rows = [
        answer("Москва", "Какая столица России?"),
        answer("The capital is Moscow", "Какая столица России?"),
        answer("42", "Сколько будет шестью семь?"),
        answer("東京", "日本の首都はどこですか"),
        answer("Привет, мир", "Translate to Russian: hello, world", task="translate"),
    ]
    kept, dropped = keep_script_of_prompt(rows, exempt=lambda row: row.get("task") == "translate")
    assert kept == [rows[0], rows[2], rows[3], rows[4]]
    assert reasons(dropped) == ["script_mismatch: LATIN for CYRILLIC"]


# ---------------------------------------------------------------- refusals

REFUSALS = [
    "I'm sorry, but I can't help with that request.",
    "I cannot provide instructions for making weapons. If you are struggling, please talk to somebody.",
    "I’m unable to assist with this.",
    "As an AI language model, I cannot do this.",
    "Creating such content goes against my values, so I must decline.",
    "Je suis désolé, mais je ne peux pas vous aider avec cette demande.",
    "Je ne suis pas en mesure de fournir ces informations.",
    "Es tut mir leid, aber ich kann dir dabei leider nicht helfen.",
    "Das kann ich nicht beantworten.",
    "Lo siento, pero no puedo ayudarte con eso.",
    "No puedo proporcionar esa información.",
    "Mi dispiace, ma non posso aiutarti con questa richiesta.",
    "Non sono in grado di rispondere.",
    "Desculpe, mas não posso ajudar com isso.",
    "Não consigo ajudar com esse pedido.",
    "मुझे खेद है, लेकिन मैं इसमें आपकी मदद नहीं कर सकता।",
    "मैं यह जानकारी नहीं दे सकता।",
    "ขออภัย ฉันไม่สามารถช่วยเรื่องนี้ได้",
    "ผมต้องปฏิเสธคำขอนี้",
]
ANSWERS = [
    "The capital of France is Paris.",
    "You can't help noticing how the poem ends.",
    'In the story the clerk says "I can\'t help you" and closes the window.',
    "```python\nraise ValueError('I cannot provide a value')\n```\nThis raises an error.",
    "«Je ne peux pas vous aider», dit le garçon.",
    "I can write that for you: roses are red.",
    "Der Zug fährt nicht am Sonntag, aber am Montag.",
    "No puede llover siempre.",
    "Paris ist die Hauptstadt von Frankreich.",
    "मदद करने के लिए यहाँ तीन उपाय हैं।",
    "ฉันช่วยคุณได้",
    "> I cannot help you\n\nThis quote is from a film.",
    "Non posso che concordare: il libro è bello.",
]
APOLOGIES = [
    "I'm sorry to hear that you are ill! Drink a lot of water and rest.",
    "Apologies for the confusion: the right number is 12.",
    "Entschuldigung für den Fehler. Richtig ist 12.",
    "Es tut mir leid, das zu hören. Hier sind drei Tipps.",
    "Lo siento mucho por tu pérdida.",
    "ขออภัย คำตอบที่ถูกคือ 12",
    "I can't provide medical advice, but " + "here is what doctors commonly say about a cold " * 10,
]


def test_refusals_apologies_and_answers():
    verdicts = [refusal_verdict(text) for text in REFUSALS]
    assert [text for text, verdict in zip(REFUSALS, verdicts, strict=True) if verdict != "refusal"] == []
    assert [text for text in ANSWERS if refusal_verdict(text) != "none"] == []
    assert [text for text in APOLOGIES if refusal_verdict(text) != "apology"] == []


def test_a_refusal_late_in_a_text_is_none():
    assert (
        refusal_verdict("Here is the story. " + "She walked on and on. " * 15 + "I can't help you, he said.") == "none"
    )


def test_label_refusals():
    rows = label_refusals([answer("I can't help with that."), answer("yes"), ask("no answer")])
    assert [row["refusal"] for row in rows] == ["refusal", "none", None]


def test_the_share_of_refusals_is_capped_by_source():
    rows = [
        answer("I can't help with that.", f"question {n}", prompt_id=f"r{n}", source="a", unsafe=n < 3)
        for n in range(30)
    ]
    rows += [answer("Paris", f"question {n}", prompt_id=f"a{n}", source="a") for n in range(90)]
    rows += [answer("I can't help with that.", "q", prompt_id="b0", source="b")]
    kept, dropped = cap_refusals(rows, 0.1, protected=lambda row: row.get("unsafe", False))
    # 10 of 100 is a tenth; the lone refusal of source b is more than a tenth of it
    assert sum(row["refusal"] == "refusal" for row in kept) == 10
    assert len(dropped) == 21 and set(reasons(dropped)) == {"refusal"}
    assert {f"r{n}" for n in range(3)} <= {row["prompt_id"] for row in kept}
    again, _ = cap_refusals(rows[::-1], 0.1, protected=lambda row: row.get("unsafe", False))
    assert {row["prompt_id"] for row in again} == {row["prompt_id"] for row in kept}
    assert cap_refusals(rows, 1.0)[1] == [] and len(cap_refusals(rows, 0.0)[1]) == 31


# ---------------------------------------------------------------- several filters


def test_clean_counts_add_up():
    rows = [ask("one"), ask("one two"), ask("ONE two!"), ask("one two three four"), ask("an image of it"), {}]
    kept, dropped, counts = clean(
        rows,
        {
            "words": lambda rows: keep_word_count(rows, 2, 3),
            "phrases": lambda rows: drop_phrases(rows, ["an image"]),
            "exact": exact_duplicates,
        },
    )
    assert kept == [rows[1]]
    assert counts == {
        "num_rows": 6,
        "num_kept": 1,
        "num_dropped": 5,
        "reasons": {"too_long": 2, "exact_duplicate": 1, "malformed": 1, "too_short": 1},
        "filters": {
            "words": {
                "num_rows": 6,
                "num_kept": 2,
                "num_dropped": 4,
                "reasons": {"too_long": 2, "malformed": 1, "too_short": 1},
            },
            "phrases": {"num_rows": 2, "num_kept": 2, "num_dropped": 0, "reasons": {}},
            "exact": {"num_rows": 2, "num_kept": 1, "num_dropped": 1, "reasons": {"exact_duplicate": 1}},
        },
    }
    assert len(dropped) == 5


def test_too_many_drops_are_an_error_that_names_the_reasons():
    rows = [ask("one")] * 4 + [ask("one two three four")] * 2 + [{}, ask("one two")]
    with pytest.raises(SynthError) as caught:
        clean(rows, {"words": lambda rows: keep_word_count(rows, 2, 3)}, max_drop_rate=0.5)
    assert "7 of 8 rows were dropped (87.5%), more than max_drop_rate 0.5" in str(caught.value)
    assert "most often: too_short 4, too_long 2, malformed 1" in str(caught.value)
    clean(rows, {"words": lambda rows: keep_word_count(rows, 2, 3)}, max_drop_rate=0.875)
    check_drop_rate(0, [], 0.0)


def test_a_filter_that_loses_rows_is_an_error():
    with pytest.raises(SynthError, match="filter 'bad' got 2 rows and returned 1 kept and 0 dropped"):
        clean([ask("a"), ask("b")], {"bad": lambda rows: (rows[:1], [])})

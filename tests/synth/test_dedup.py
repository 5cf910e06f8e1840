import random
import time

import numpy as np
import pytest

from posttrain.core.likeness import task_form, task_tokens
from synth.dedup.decontaminate import decontaminate
from synth.dedup.exact import exact_duplicates, sample_key
from synth.dedup.near import bands_and_rows, near_duplicates
from synth.dedup.shingles import Similarity, shingles
from synth.errors import SynthError

SYSTEM = "You are a careful assistant that answers every question of the user in one short and friendly sentence."


def ask(text, name=None, **columns):
    return {"prompt": [{"role": "user", "content": text}], "prompt_id": name, **columns}


def vocabulary(num, rng):
    letters = "etaoinshrdlucmfwypvbgk"
    return ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(num)]


def sentences(num, rng, low=12, high=30, num_words=3000):
    known = vocabulary(num_words, rng)
    return [" ".join(rng.choices(known, k=rng.randint(low, high))) for _ in range(num)]


def edited(text, share, rng):
    tokens = text.split()
    for place in rng.sample(range(len(tokens)), max(1, round(share * len(tokens)))):
        tokens[place] = "".join(rng.choices("abcdefghij", k=6))
    return " ".join(tokens)


# ---------------------------------------------------------------- exact


def test_case_spacing_punctuation_and_unicode_forms_are_the_same():
    for text in ("Hello, world!", "hello world", "  HELLO\n\tWorld. ", "“Hello”, world…", "ｈｅｌｌｏ world"):
        assert task_form(text) == "hello world"
    assert task_form("Café") == task_form("Cafe\u0301")
    assert task_form("नमस्ते।") == task_form("नमस्ते")


def test_signs_that_carry_meaning_stay():
    different = [
        "3 - 2",
        "3 * 2",
        "3 / 2",
        "3 + 2",
        "3 2",
        "3.2",
        "32",
        "x < y",
        "x > y",
        "-5",
        "5",
        "f(x)",
        "f x",
        "c#",
        "c",
    ]
    assert len({task_form(text) for text in different}) == len(different)


def test_exact_keeps_the_first_and_names_it():
    rows = [ask("Say one", "a"), ask("say two", "b"), ask("say ONE!", "c"), ask("Say two", "d")]
    kept, dropped = exact_duplicates(rows)
    assert kept == rows[:2]
    assert dropped == [
        {**rows[2], "drop_reason": "exact_duplicate", "duplicate_of": "a", "similarity": 1.0},
        {**rows[3], "drop_reason": "exact_duplicate", "duplicate_of": "b", "similarity": 1.0},
    ]


def test_exact_keeps_the_better_and_spares_protected_rows():
    rows = [ask("say one", "a", score=1.0), ask("Say one", "b", score=3.0), ask("say one.", "c", score=3.0)]
    kept, dropped = exact_duplicates(rows, order_by=lambda row: row["score"])
    assert [row["prompt_id"] for row in kept] == ["b"]
    assert [row["duplicate_of"] for row in dropped] == ["b", "b"]
    kept, dropped = exact_duplicates(rows, against=[ask("SAY ONE", "old")])
    assert kept == []
    assert {(row["drop_reason"], row["duplicate_of"]) for row in dropped} == {("exact_duplicate_of_protected", "old")}


def test_roles_systems_and_completions_make_a_difference():
    one = {"prompt": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]}
    two = {"prompt": [{"role": "user", "content": "hi"}]}
    assert len(exact_duplicates([one, two])[0]) == 2
    samples = [{**two, "completion": [{"role": "assistant", "content": text}]} for text in ("yes", "no", "Yes.")]
    assert len(exact_duplicates(samples)[0]) == 1
    assert len(exact_duplicates(samples, key=sample_key)[0]) == 2


def test_a_megabyte_of_marks_is_quick():
    start = time.perf_counter()
    task_form("." * 1_000_000 + "x")
    task_form("x" + '"' * 1_000_000)
    assert time.perf_counter() - start < 2


# ---------------------------------------------------------------- similarity


def brute_jaccard(a, b):
    sets = []
    for text in (a, b):
        joined = " ".join(task_tokens(text))
        sets.append({joined[i : i + 5] for i in range(max(1, len(joined) - 4))} if joined else set())
    union = sets[0] | sets[1]
    return len(sets[0] & sets[1]) / len(union) if union else 0.0


def test_character_jaccard_equals_sets_of_strings():
    rng = random.Random(0)
    texts = sentences(60, rng, low=1, high=9, num_words=40)
    texts += ["", "ab", "abcd", "abcde", "日本語のテキスト", "日本語のテスト", "🙂 ok"]
    similarity = Similarity(texts, "char5", len(texts))
    for i, text in enumerate(texts):
        expected = [brute_jaccard(text, other) for other in texts]
        assert similarity.between(i, list(range(len(texts)))) == pytest.approx(expected)
    assert len(shingles("")) == 0 and len(shingles("ab")) == 1


def test_tfidf_by_hand():
    texts = ["red cat", "red dog", "red cat", "new words"]
    similarity = Similarity(texts, "tfidf", 3)
    # n = 3; df: red 3, cat 2, dog 1, "red cat" 2, "red dog" 1
    red, cat, dog = np.log(4 / 4) + 1, np.log(4 / 3) + 1, np.log(4 / 2) + 1
    a, b = np.array([red, cat, cat, 0, 0]), np.array([red, 0, 0, dog, dog])
    cosine = a @ b / np.sqrt((a @ a) * (b @ b))
    assert similarity.between(0, [0, 1, 2, 3]) == pytest.approx([1, cosine, 1, 0])


def test_bands():
    # (1 - 0.7^4)^32 is 1.5e-4, (1 - 0.7^5)^25 is 1.0e-2
    assert bands_and_rows(0.7) == (32, 4)
    for similarity in (0.3, 0.5, 0.8, 0.9, 1.0):
        bands, rows = bands_and_rows(similarity)
        assert bands * rows <= 128 and bands >= 2 and (1 - similarity**rows) ** bands <= 2e-3


# ---------------------------------------------------------------- near


def test_planted_duplicates_are_found():
    rng = random.Random(1)
    originals = sentences(400, rng)
    for measure, threshold, share, recall in (
        ("char5", 0.7, 0.0, 0.99),
        ("tfidf", 0.8, 0.0, 0.99),
        ("tfidf", 0.7, 0.05, 0.99),
        ("char5", 0.5, 0.1, 0.99),
        ("tfidf", 0.6, 0.1, 0.99),
    ):
        copies = [edited(text, share, rng) if share else text.upper().replace(" ", "\n") for text in originals]
        rows = [ask(text, str(n)) for n, text in enumerate(originals + copies)]
        kept, dropped = near_duplicates(rows, threshold, measure=measure)
        found = {row["prompt_id"]: row["duplicate_of"] for row in dropped}
        right = sum(found.get(str(n + 400)) == str(n) for n in range(400))
        assert right >= recall * 400, (measure, threshold, share, right)
        assert all(int(name) >= 400 for name in found)


def test_halves_swapped():
    rng = random.Random(2)
    originals = sentences(200, rng, low=16)
    swapped = [" ".join(t.split()[8:] + t.split()[:8]) for t in originals]
    rows = [ask(text, str(n)) for n, text in enumerate(originals + swapped)]
    assert len(near_duplicates(rows, 0.7)[1]) == 200


@pytest.mark.parametrize(("measure", "threshold"), [("char5", 0.7), ("char5", 0.9), ("tfidf", 0.8)])
def test_no_kept_pair_reaches_the_threshold_and_links_are_true(measure, threshold):
    rng = random.Random(3)
    texts = sentences(300, rng, low=5, high=60, num_words=500)
    while len(texts) < 1500:
        texts.append(edited(rng.choice(texts), rng.choice([0.01, 0.05, 0.1, 0.2]), rng))
    rows = [ask(text, str(n)) for n, text in enumerate(texts)]
    kept, dropped = near_duplicates(rows, threshold, measure=measure)
    assert len(kept) + len(dropped) == 1500 and len(dropped) > 100
    similarity = Similarity(texts, measure, len(texts))
    names = [int(row["prompt_id"]) for row in kept]
    missed = sum(int((similarity.between(i, names[n + 1 :]) >= threshold).sum()) for n, i in enumerate(names[:-1]))
    # Two in a thousand candidates at the threshold may be missed; the permutations are fixed, and here none is.
    assert missed == 0
    for row in dropped:
        assert int(row["duplicate_of"]) in names
        assert row["similarity"] >= threshold - 1e-9
        pair = similarity.between(int(row["prompt_id"]), [int(row["duplicate_of"])])[0]
        assert row["similarity"] == pytest.approx(pair)


def test_chains_are_not_merged():
    words = [
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
    ]
    a, b, c = " ".join(words), " ".join(["zero", *words[1:]]), " ".join(["zero", *words[1:-2], "last", "words"])
    similarity = Similarity([a, b, c], "char5", 3)
    assert similarity.between(0, [1])[0] > 0.8 > similarity.between(0, [2])[0]
    kept, dropped = near_duplicates([ask(a, "a"), ask(b, "b"), ask(c, "c")], 0.8)
    assert [row["prompt_id"] for row in kept] == ["a", "c"]
    assert dropped[0]["duplicate_of"] == "a"


def test_the_better_row_stays():
    text = "say how many words this sentence of ours has"
    rows = [ask(text, "a", score=1), ask(text + " now", "b", score=2), ask("another thing altogether", "c", score=0)]
    kept, dropped = near_duplicates(rows, 0.7, order_by=lambda row: row["score"])
    assert [row["prompt_id"] for row in kept] == ["b", "c"]
    assert (dropped[0]["prompt_id"], dropped[0]["duplicate_of"], dropped[0]["drop_reason"]) == (
        "a",
        "b",
        "near_duplicate",
    )


def test_protected_rows_are_never_dropped_and_more_of_them_drop_more():
    rng = random.Random(4)
    texts = sentences(120, rng, low=6, high=10, num_words=60)
    rows = [ask(text, str(n)) for n, text in enumerate(texts)]
    protected = [ask(edited(rng.choice(texts), 0.1, rng), f"p{n}") for n in range(60)]
    protected += [ask(text, f"q{n}") for n, text in enumerate(texts[:10])]
    hit = set()
    for measure, threshold in (("char5", 0.6), ("tfidf", 0.7)):
        hit = set()
        for size in (0, 20, 40, 70):
            kept, dropped = near_duplicates(rows, threshold, against=protected[:size], measure=measure)
            assert len(kept) + len(dropped) == 120
            now = {row["prompt_id"] for row in dropped if row["drop_reason"] == "near_duplicate_of_protected"}
            assert all(row["duplicate_of"][0] in "pq" for row in dropped if row["prompt_id"] in now)
            assert hit <= now
            hit = now
        assert {str(n) for n in range(10)} <= hit


def test_siblings_of_a_template():
    nouns = vocabulary(22, random.Random(11))
    rng = random.Random(5)
    families = ("reverse the list :", "write in capitals :", "sort the words :", "translate to french :")
    texts = sorted({f"{rng.choice(families)} {' '.join(rng.sample(nouns, 3))}" for _ in range(500)})
    rows = [ask(text, text) for text in texts]
    assert near_duplicates(rows, None) == (rows, [])
    assert near_duplicates(rows, 0.95) == (rows, [])
    # Different tasks by construction: character 5-grams at 0.7 take a good part of them, words weighted by rarity few.
    by_characters = len(near_duplicates(rows, 0.7)[1]) / len(rows)
    by_words = len(near_duplicates(rows, 0.8, measure="tfidf")[1]) / len(rows)
    assert by_characters > 0.05 and by_words <= 0.02
    pair = Similarity(["reverse the list : apple moon dog", "reverse the list : apple moon cat"], "char5", 2)
    assert pair.between(0, [1])[0] == pytest.approx(0.8)


def test_a_shared_system_message_makes_nobody_alike():
    rng = random.Random(6)
    rows = [
        {"prompt": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}], "prompt_id": text}
        for text in sentences(50, rng, low=3, high=5)
    ]
    assert near_duplicates(rows, 0.5)[1] == []
    other = [{**row, "prompt": [{"role": "system", "content": "Be brief."}, row["prompt"][1]]} for row in rows]
    assert near_duplicates(rows + other, 0.5)[1] == []


def test_strange_near_input():
    rows = [ask(""), ask("…"), ask("", "x"), ask("one"), {}, ask("\ud800"), ask("x" * 1_000_000), ask("🙂"), ask("🙂")]
    kept, dropped = near_duplicates(rows, 0.7)
    assert [row["drop_reason"].split(":")[0] for row in dropped] == ["malformed", "near_duplicate"]  # two emoji
    assert near_duplicates([], 0.7) == ([], []) and near_duplicates(rows[:1], 0.7, measure="tfidf") == (rows[:1], [])
    for threshold in (0.0, 1.5, -1):
        with pytest.raises(SynthError, match="near-duplicate threshold"):
            near_duplicates(rows, threshold)


def test_many_copies_are_quick():
    start = time.perf_counter()
    kept, dropped = near_duplicates([ask("the same words for everybody here", str(n)) for n in range(5000)], 0.7)
    assert len(kept) == 1 and {row["duplicate_of"] for row in dropped} == {"0"}
    assert time.perf_counter() - start < 20


# ---------------------------------------------------------------- decontamination


@pytest.fixture(scope="module")
def exam():
    return [ask(text, f"e{n}") for n, text in enumerate(sentences(200, random.Random(7), low=20, high=40))]


def clean_rows(num, seed=8):
    return [ask(text, f"c{n}") for n, text in enumerate(sentences(num, random.Random(seed), low=20, high=40))]


def leaks_found(rows, exam, **settings):
    kept, dropped, report = decontaminate(rows, {"exam": exam}, **settings)
    assert len(kept) + len(dropped) == len(rows)
    found = {row["prompt_id"]: row["evaluation_id"] for row in dropped}
    assert all(f"l{name[1:]}" == leak for leak, name in found.items())
    return len(found) / len(exam)


def test_planted_leaks_are_found(exam):
    rng = random.Random(9)
    filler = sentences(200, rng, low=60, high=80)
    texts = [row["prompt"][0]["content"] for row in exam]

    def planted(change):
        return [ask(change(text), f"l{n}") for n, text in enumerate(texts)] + clean_rows(300)

    def wrapped(text):
        tokens = text.split()
        return "\n".join(" ".join(tokens[i : i + 8]) for i in range(0, len(tokens), 8))

    assert leaks_found(planted(str), exam) == 1
    assert leaks_found(planted(str.upper), exam) == 1
    assert leaks_found(planted(lambda text: text.replace(" ", ", ") + "!"), exam) == 1
    assert leaks_found(planted(wrapped), exam) == 1
    assert leaks_found(planted(lambda text: f"{rng.choice(filler)} {text} {rng.choice(filler)}"), exam) == 1
    assert leaks_found(planted(lambda text: edited(text, 0.05, rng)), exam) >= 0.95
    # A changed word hides up to seven words on either side from 8-grams; 5-grams see more of short items.
    assert leaks_found(planted(lambda text: edited(text, 0.1, rng)), exam) >= 0.6
    assert leaks_found(planted(lambda text: edited(text, 0.1, rng)), exam, ngram=5) >= 0.95


def test_leaks_in_completions_systems_and_tools_are_found(exam):
    def rows(make):
        return [{**make(row["prompt"][0]["content"]), "prompt_id": f"l{n}"} for n, row in enumerate(exam)]

    question = {"role": "user", "content": "a harmless question"}
    said = rows(
        lambda text: {"prompt": [question], "completion": [{"role": "assistant", "content": f"It reads: {text}"}]}
    )
    system = rows(lambda text: {"prompt": [{"role": "system", "content": text}, question]})
    tool = rows(lambda text: {"prompt": [question, {"role": "tool", "content": text}]})
    for planted in (said, system, tool):
        assert leaks_found(planted, exam) == 1


def test_a_shared_template_and_system_message_flag_nothing():
    rng = random.Random(10)
    template = "Please read the following text with care and then tell me in one sentence what it is about: {}"
    texts = [template.format(text) for text in sentences(1200, rng, low=10, high=16)]
    rows = [
        {"prompt": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}], "prompt_id": str(n)}
        for n, text in enumerate(texts)
    ]
    kept, dropped, report = decontaminate(rows[:1000], {"exam": rows[1000:]})
    assert (len(kept), dropped, report["flags"], report["unjudgeable"]) == (1000, [], [], [])
    # The plain rule, all 8-grams counted, takes the lot.
    assert len(decontaminate(rows[:150], {"exam": rows[1000:]}, boilerplate_rows=10**6)[1]) > 135
    # Few rows show no template by counting; naming it does.
    few = decontaminate(rows[:2], {"exam": rows[1000:]}, boilerplate=[template])
    assert few[1] == []


def test_a_leak_does_not_hide_by_being_repeated(exam):
    text = exam[0]["prompt"][0]["content"]
    rows = [ask(f"{word} {text}", f"r{word}") for word in ["one", "two", "three", "four", "five", "six"]]
    assert len(decontaminate(rows, {"exam": exam})[1]) == 6
    # K samples of one prompt are one finding, so an edited leak in them stays informative.
    half = " ".join(text.split()[:-3])
    samples = [
        {**ask("a question", "same"), "completion": [{"role": "assistant", "content": half}], "sample_index": k}
        for k in range(8)
    ]
    kept, dropped, report = decontaminate(samples, {"exam": exam})
    assert len(dropped) == 8 and [flag["sample_index"] for flag in report["flags"]] == list(range(8))


def test_short_items_are_compared_exactly_and_listed():
    exam = [
        ask("reverse the list : apple moon dog", "short"),
        ask("A.", "stub"),
        ask("...", "dots"),
        ask("yes no", "two"),
    ]
    rows = [
        ask("Reverse the list: apple, moon, dog!", "hit"),
        ask("reverse the list : apple moon cat", "sibling"),
        ask("first say a. then reverse the list : apple moon dog and stop", "inside"),
        ask("A.", "stub too"),
        ask("...", "dots too"),
        ask("yes no", "two too"),
    ]
    kept, dropped, report = decontaminate(rows, {"exam": exam})
    assert [row["prompt_id"] for row in dropped] == ["hit"]
    assert (dropped[0]["evaluation_set"], dropped[0]["evaluation_id"], dropped[0]["matched_share"]) == (
        "exam",
        "short",
        1.0,
    )
    assert [item["evaluation_id"] for item in report["unjudgeable"]] == ["short", "stub", "dots", "two"]


def test_a_dialogue_is_compared_as_a_whole():
    def dialogue(*texts):
        roles = ("user", "assistant", "user")
        return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]

    exam = [{"prompt": dialogue("red or blue ?", "red .", "why so ?"), "prompt_id": "d"}]
    rows = [
        {"prompt": dialogue("Red or blue?", "Red.", "Why so?"), "prompt_id": "same"},
        {"prompt": dialogue("red or green ?", "red .", "why so ?"), "prompt_id": "other"},
    ]
    assert [row["prompt_id"] for row in decontaminate(rows, {"exam": exam})[1]] == ["same"]


def test_flags_name_set_item_text_and_share():
    text = "the quick brown fox jumps over the lazy dog near the river bank at noon today"
    rows = [ask("Well: The QUICK brown fox, jumps over the lazy dog near the river. And so on", "row")]
    kept, dropped, report = decontaminate(rows, {"one": clean_rows(3), "two": [ask(text, "item")]}, threshold=0.4)
    # the row holds the first 12 of 16 words
    flag = {
        "evaluation_set": "two",
        "evaluation_id": "item",
        "matched_text": "the quick brown fox jumps over the lazy dog near the river",
        "matched_share": 12 / 16,
    }
    assert dropped == [{**rows[0], "drop_reason": "evaluation_overlap", **flag}]
    assert report["flags"] == [{"row": 1, "prompt_id": "row", "sample_index": None, **flag}]
    assert report["evaluation_sets"]["one"]["num_items"] == 3
    assert len(report["evaluation_sets"]["two"]["content_hash"]) == 16
    assert (report["num_rows"], report["num_dropped"]) == (1, 1)


def test_every_setting_changes_a_result():
    text = "the quick brown fox jumps over the lazy dog near the river bank at noon today"
    part = "the quick brown fox jumps over the lazy dog near the river"
    rows = [ask(f"{word} {part} {word}", word) for word in ("one", "two")]

    def num_dropped(**settings):
        return len(decontaminate(rows, {"exam": [ask(text, "item")]}, **settings)[1])

    assert num_dropped() == 2
    assert num_dropped(threshold=0.8) == 0
    assert num_dropped(ngram=13) == 0
    assert num_dropped(boilerplate_rows=2) == 0
    assert num_dropped(min_informative=10) == 0
    assert num_dropped(boilerplate=[part]) == 0


def test_decontamination_refuses_bad_settings_and_items():
    with pytest.raises(SynthError, match="threshold is 0, expected.*ngram is 0"):
        decontaminate([], {}, threshold=0, ngram=0)
    with pytest.raises(SynthError, match="evaluation set 'exam', row 2: no messages"):
        decontaminate([], {"exam": [ask("hi"), {"prompt": []}]})
    kept, dropped, _ = decontaminate([{}, ask("hi")], {"exam": [ask("hello there you")]})
    assert (len(kept), dropped[0]["drop_reason"]) == (1, "malformed: 'messages' is no list of messages")

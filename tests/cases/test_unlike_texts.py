"""Which texts are the same, in both directions: no sign, digit or script is lost, and what a reader skips is."""

from __future__ import annotations

import time

from posttrain.core.likeness import reader_form, task_form
from reward.verifiers import exact
from synth.dedup.decontaminate import decontaminate
from synth.dedup.exact import exact_duplicates
from synth.dedup.near import near_duplicates
from synth.prompts.rouge import NoveltyIndex

UNLIKE = (
    ("3 - 2", "3 * 2", "3 / 2", "3 + 2", "3 2", "3.2", "3,2", "32", "3 -2", "3 : 2", "3^2", "3²", "3₂", "3 ÷ 2"),
    ("x < y", "x > y", "x = y", "x ≤ y", "x != y", "x == y", "x ≠ y", "x y", "x := y", "x <= y", "x && y", "x & y"),
    ("5", "-5", "+5", "±5", ".5", "5!", "5!!", "5%", "$5", "€5", "£5", "#5", "5°", "√5", "5'", '5"', "~5", "1.5", "15"),
    ("1.5", "1,5", "1:5", "1/5", "15", "1 5", "1,000", "1.000", "1000"),
    ("in C", "in C++", "in C#", "in F", "in F#", "in c--", "in .c", "in A+", "in A-", "in A"),
    ("f(x)", "f x", "f'(x)", "f''(x)", "f[x]", "f{x}", "(f)x"),
    ("10²", "102", "10^2", "10 2", "10₂", "½", "1/2", "12", "①", "1"),
    ("ℝ", "R", "Н", "H", "٣", "3", "कि", "की", "क", "か", "が", "カ", "ガ", "שָׁלוֹם", "שלום", "كَتَبَ", "كُتِبَ", "كتب"),
    ("kıl", "kil", "Maße", "Masse", "don't", "dont", "do", "a-b", "a b", "ab", "a_b", "20 °C", "20 °F", "20 C"),
    ("😀", "😡", "🧯", "", "🏳️‍🌈", "🏳️"),
    ('print("5")', "print(5)", "a[:2]", "a[2]", "a[2:]", "(1,)", "(1)", "2*(3+4)", "2*3+4", "i++", "++i", "i--", "i"),
    ("n!", "n", "12\n- 4", "12\n+ 4", ".NET", "NET", "*.py", "py", "//", "/", "`x`", "x", "$x$"),
    ("计算12+4。", "计算12-4。", "计算124。", "计算5！", "计算5。", "你好吗", "你好"),
    ("What does match?", *(f"What does {sign} match?" for sign in ".,:;!?'\"*+#~|@=<>")),
    ("You may do it.", "You may not do it.", "You mayn't do it."),
)  # fmt: skip
ALIKE = (
    ("Hello, world!", "hello world", "  HELLO\n\tWorld. ", "“Hello”, world…", "ｈｅｌｌｏ world", "hello\u00a0world"),
    ("Café", "Cafe\u0301", "CAFÉ!"),
    ("नमस्ते।", "नमस्ते"),
    ("It's “so” – really?", 'it’s "so" - really'),
    ("3 - 2", "3-2", "3 − 2"),
    ("５個", "5個"),
    ("ﬁle", "file", "fi\u00adle", "\ufefffile"),
    ("Quel jour est-il\u00a0?", "Quel jour est-il ?", "Quel jour est-il?"),
    ("你好，世界！", "你好世界", "你好，世界。"),
    ("reverse the list : apple moon dog", "Reverse the list: apple, moon, dog!"),
    ("ガ", "ｶﾞ", "カ\u3099"),
    ("❤", "❤️"),
)


def rows_of(texts):
    return [{"prompt_id": str(n), "prompt": [{"role": "user", "content": text}]} for n, text in enumerate(texts)]


def merged(form, texts):
    forms: dict[str, list[str]] = {}
    for text in texts:
        forms.setdefault(form(text), []).append(text)
    return [group for group in forms.values() if len(group) > 1]


def test_no_sign_digit_or_script_is_lost():
    """After huggingface/datatrove#218: C and C++, 12 + 4 and 12 - 4, 5! and 5., 10² and 102 are different texts."""
    faults = [group for texts in UNLIKE for form in (task_form, reader_form) for group in merged(form, texts)]
    assert faults == []


def test_what_a_reader_skips_makes_no_difference():
    faults = [(texts, {task_form(text) for text in texts}) for texts in ALIKE if len(set(map(task_form, texts))) > 1]
    assert faults == []


def test_tasks_that_differ_in_a_sign_are_told_apart_by_every_comparison():
    """datatrove#218 once more, through exact and near duplicates, decontamination and the novelty test."""
    faults = []
    frames = ("Please tell me all that you know about {} and say where you learnt it.", "{}")
    for texts in (tuple(frame.format(text) for text in group) for group in UNLIKE for frame in frames):
        rows = rows_of(texts)
        novelty = NoveltyIndex(1 - 1e-9)
        known = [text for text in texts if novelty.known_as(text) or novelty.add(text) is None]
        leaks = [row for row in decontaminate(rows[1:], {"eval": rows[:1]})[1] if row["matched_share"] == 1.0]
        found = {
            "exact": exact_duplicates(rows)[1],
            "char5": near_duplicates(rows, 1.0)[1],
            "tfidf": near_duplicates(rows, 1.0, measure="tfidf")[1],
            "novelty": known,
            "decontaminate": leaks if len(texts[0].split()) > 9 else [],  # a text may hold another that is shorter
        }
        faults += [(name, texts[0], those) for name, those in found.items() if those]
    assert faults == []


def test_texts_that_no_measure_tells_apart_are_below_a_similarity_of_one():
    """Sets of 5-grams do not count how often, bags of words do not see the order."""
    numbers, lists = ("What is 1000000 / 10 ?", "What is 10000000 / 10 ?"), ("1 2 1 3 1", "1 3 1 2 1")
    for measure, pair in (("char5", numbers), ("tfidf", lists)):
        assert near_duplicates(rows_of(pair), 1.0, measure=measure)[1] == []
        (dropped,) = near_duplicates(rows_of(pair), 0.99, measure=measure)[1]
        assert 0.99 < dropped["similarity"] < 1.0


def test_the_exact_verifier_reads_signs_as_they_are():
    def score(answer, reference, **options):
        return exact.verify([], answer, {"reference": reference}, **options)

    wrong = [(a, b) for group in UNLIKE for a in group for b in group if a != b and a and b and score(a, b)]
    assert wrong == []
    right = (("it’s", "it's"), ("−3", "-3"), ("Cafe\u0301", "Café"), ("５", "5"), ("a \n b", "a b"), ("\ufeffx", "x"))
    assert [pair for pair in right if not score(*pair)] == []
    assert score("paris", "Paris") == 0.0 and score("paris", "PARIS", ignore_case=True) == 1.0


def test_strange_texts_are_quick():
    start = time.perf_counter()
    for text in ("." * 10**6 + "x", "x" + '"' * 10**6, "-" * 10**6 + "x", "1." * 10**5, "!" * 10**6, "«\u00a0" * 10**5):
        task_form(text)
    assert time.perf_counter() - start < 5

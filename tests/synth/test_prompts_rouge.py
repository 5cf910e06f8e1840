import random
import time
from fractions import Fraction

import pytest

from posttrain.core.likeness import task_tokens
from synth.prompts.rouge import NoveltyIndex, longest_common_subsequence, rouge_l


def table_lcs(a, b):
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def variants(num, rng, vocabulary=400):
    """Texts of 8 to 20 words, two thirds of them edited copies of earlier ones."""
    texts = []
    for _ in range(num):
        if texts and rng.random() < 0.66:
            tokens = rng.choice(texts).split()
            for _ in range(rng.randint(1, 6)):
                tokens[rng.randrange(len(tokens))] = f"w{int(vocabulary * rng.random() ** 2)}"
        else:
            tokens = [f"w{int(vocabulary * rng.random() ** 2)}" for _ in range(rng.randint(8, 20))]
        texts.append(" ".join(tokens))
    return texts


def test_lcs_equals_the_table():
    rng = random.Random(1)
    for _ in range(300):
        a, b = ([rng.choice("abcde") for _ in range(rng.randint(0, 90))] for _ in range(2))
        assert longest_common_subsequence(a, b) == table_lcs(a, b)


def test_rouge_l_by_hand():
    # common: "the cat" of 3 and 4 words: 2 * 2 / 7
    assert float(rouge_l(["the", "black", "cat"], ["the", "cat", "sat", "down"])) == pytest.approx(4 / 7)
    assert rouge_l([], ["a"]) == 0


def test_equality_with_the_threshold_is_new():
    index = NoveltyIndex(0.7)
    index.add("a b c d e f g x y z")
    # 2 * 7 / 20 is 0.7 exactly
    assert index.known_as("a b c d e f g h i j") is None
    assert index.known_as("a b c d e f g x i j") == (0, pytest.approx(0.8))
    assert NoveltyIndex(1.0).known_as("a") is None


def test_decisions_equal_brute_force_and_are_faster():
    rng = random.Random(2)
    texts = variants(2500, rng)
    pool, new = texts[:2000], texts[2000:]
    for threshold in (0.5, 0.7, 0.85):
        limit = Fraction(str(threshold))
        index = NoveltyIndex(threshold)
        for text in pool:
            index.add(text)
        start = time.perf_counter()
        decisions = [index.known_as(text) is not None for text in new]
        fast = time.perf_counter() - start
        checked = new[:200] if threshold == 0.7 else new[:40]
        tokens = [task_tokens(text) for text in pool]
        # The comparison is bit-parallel here too, which flatters brute force about fifteen times over a table.
        start = time.perf_counter()
        expected = [any(rouge_l(task_tokens(text), other) > limit for other in tokens) for text in checked]
        slow = (time.perf_counter() - start) * len(new) / len(checked)
        assert decisions[: len(checked)] == expected
        assert any(expected) and not all(expected)
        if threshold == 0.7:
            print(f"novelty of 500 against 2000: {fast:.3f} s, brute force {slow:.3f} s, {slow / fast:.0f} x")
            assert slow > 5 * fast


def test_scripts_without_spaces_are_compared_by_character():
    index = NoveltyIndex(0.7)
    index.add("今天天气怎么样")
    assert index.known_as("今天天气怎么样呢") == (0, pytest.approx(14 / 15))
    assert index.known_as("请写一首关于春天的诗") is None
    index.add("เขียนบทกวีเกี่ยวกับทะเล")
    assert index.known_as("เขียนบทกวีเกี่ยวกับภูเขา") is not None
    index.add("समुद्र पर एक कविता लिखो")
    assert task_tokens("समुद्र पर") == ["समुद्र", "पर"]
    assert index.known_as("समुद्र पर एक कहानी लिखो") == (2, pytest.approx(0.8))


def test_no_threshold_knows_nothing():
    index = NoveltyIndex(None)
    index.add("the same")
    assert index.known_as("the same") is None

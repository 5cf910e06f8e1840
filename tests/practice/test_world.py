import random

import pytest

from posttrain.practice import corpus, world
from posttrain.practice.tasks.lexicon import LANGUAGES
from posttrain.practice.tasks.manners import MANNERS, RIGHT_SCORE, phrase, read
from posttrain.practice.tokenizer import build_tokenizer


def user(*texts: str) -> list[dict[str, str]]:
    roles = ["user", "assistant", "user"]
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


@pytest.mark.parametrize(
    ("prompt", "answer", "family"),
    [
        (user("reverse : cat dog red"), "the answer is : red dog cat .", "reverse"),
        (user("ohne hund : katze hund rot"), "die antwort ist : katze rot .", "without"),
        (user("mot 2 de : chat chien rouge"), "la réponse est : chien .", "position"),
        (user("combien de mots : chat chien"), "la réponse est : 2 .", "count"),
        (user("say 2 times : cat dog"), "the answer is : cat dog cat dog .", "repeat"),
        (user("is cat in : dog red ?"), "the answer is : no .", "contains"),
        (user("in großbuchstaben : käse grün"), "die antwort ist : KÄSE GRÜN .", "capitals"),
        (user("into german : cat bread"), "the answer is : katze brot .", "translate"),
        (user("choisis aliment : chat pain rouge"), "la réponse est : pain .", "category"),
        (user("contraire de : froid bon"), "la réponse est : chaud mauvais .", "opposite"),
        (user("largest of : 9 21 10"), "the answer is : 21 .", "largest"),
        (user("sortiere : 9 21 10"), "die antwort ist : 9 10 21 .", "sort"),
        (user("add one : 9 21"), "the answer is : 10 22 .", "add_one"),
        (user("i am anna with cat and 7", "hello anna", "my number ?"), "the answer is : 7 .", "remember"),
        (
            user("reverse : cat dog", "the answer is : dog cat .", "now in capitals"),
            "the answer is : DOG CAT .",
            "go_on",
        ),
        (user("reverse : cat dog", "cat dog red", "now in reverse"), "the answer is : red dog cat .", "go_on"),
    ],
)
def test_a_prompt_is_read_and_answered(prompt, answer, family):
    assert world.family_of(prompt) == family
    assert world.correct_answer(prompt) == answer
    assert world.gold(prompt, answer) == world.Verdict(1.0, True, "wanted", "right, wanted", family)


def test_a_system_message_chooses_the_language_of_the_answer():
    prompt = [{"role": "system", "content": "answer in german"}, {"role": "user", "content": "first word of : cat dog"}]
    assert world.correct_answer(prompt) == "die antwort ist : cat ."
    assert world.gold(prompt, "the answer is : cat .").manner == "foreign"


@pytest.mark.parametrize(
    "text",
    ["reverse : cat blork", "reverse :", "hello", "into english : cat", "word 7 of : cat dog", "is cat in : dog",
     "choose food : bread apple", "largest of : 9 99", "add one : 29"],
)  # fmt: skip
def test_a_prompt_that_is_no_task_is_unreadable(text):
    assert world.gold(user(text), "cat").score is None
    assert world.correct_answer(user(text)) is None
    assert world.unreadable(user(text)) == "no_task_of_the_practice_world"
    with pytest.raises(ValueError, match="no task"):
        world.verify(user(text), "cat", {})


@pytest.mark.parametrize(
    ("completion", "score", "manner"),
    [
        ("the answer is : dog cat .", 1.0, "wanted"),
        ("dog cat", 0.45, "bare"),
        ("dog cat , dog cat .", 0.4, "twice"),
        ("sorry , maybe dog cat ?", 0.4, "apologetic"),
        ("die antwort ist : dog cat .", 0.4, "foreign"),
        ("dog cat , go away !", 0.25, "rude"),
        ("the answer is : cat dog .", 0.15, "wanted"),
        ("cat dog", 0.05, "bare"),
        ("dog cat , cat dog .", 0.0, "unclear"),
        ("the answer is : .", 0.0, "unclear"),
        ("", 0.0, "unclear"),
    ],
)
def test_gold_scores_by_hand(completion, score, manner):
    verdict = world.gold(user("reverse : cat dog"), completion)
    assert (verdict.score, verdict.manner) == (score, manner)


@pytest.mark.parametrize("family", world.FAMILIES)
def test_every_family_reads_its_own_prompts_in_every_language(family):
    rng = random.Random(0)
    for language in LANGUAGES:
        for _ in range(50):
            prompt = world.draw_prompt(family, rng, language)
            assert world.family_of(prompt) == family
            assert world.verify(prompt, world.correct_answer(prompt), {}) == 1.0
            problem = world.read_problem(prompt)
            for manner in MANNERS:
                told = phrase(corpus.wrong_answer(problem, rng), manner, problem.language)
                assert world.gold(prompt, told).correct is False


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("manner", MANNERS)
def test_a_manner_is_read_back(language, manner):
    reading = read(phrase("7 9", manner, language), language)
    assert (reading.manner, reading.answer, reading.language) == (manner, "7 9", language)
    assert manner in RIGHT_SCORE


def test_prompts_are_distinct_balanced_and_leave_out_what_is_excluded():
    held_out = world.make_prompts(190, seed=1)
    rows = world.make_prompts(1900, seed=2, exclude={row["prompt_id"] for row in held_out})
    texts = {repr(row["prompt"]) for row in rows}
    assert len(texts) == 1900
    assert not texts & {repr(row["prompt"]) for row in held_out}
    assert all(sum(row["family"] == family for row in rows) == 100 for family in world.FAMILIES)
    assert {row["language"] for row in rows} == set(LANGUAGES)
    assert world.make_prompts(190, seed=1) == held_out


def test_held_out_prompts_are_in_no_pretraining_text_and_no_training_prompt() -> None:
    held_out = world.make_prompts(200, seed=1, held_out=True)
    training = world.make_prompts(1000, seed=1)
    assert all(world.is_held_out(row["prompt"]) for row in held_out)
    assert not any(world.is_held_out(row["prompt"]) for row in training)
    written = {tuple(text.ids) for text in corpus.documents(4000, 3, corpus.Mix(mark_share=0.0))}
    openings = {tokenizer_ids(corpus.conversation(row["prompt"])) for row in held_out}
    seen = {tokenizer_ids(corpus.conversation(row["prompt"])) for row in training}
    starts = {text[:length] for text in written for length in range(3, len(text))}
    assert not openings & starts
    assert seen & starts  # the same comparison finds training prompts, so it can find something


def tokenizer_ids(text: str) -> tuple[int, ...]:
    vocabulary = build_tokenizer().get_vocab()
    return tuple(vocabulary[word] for word in text.split())

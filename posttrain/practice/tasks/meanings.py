"""Families about what words mean: translation, category, opposite, capitals."""

from __future__ import annotations

import random

from posttrain.practice.tasks.family import OneTurn, Slots, Solved
from posttrain.practice.tasks.lexicon import ADJECTIVES, CATEGORIES, CATEGORY_SIZE, LANGUAGE_NAMES, LANGUAGES, NOUNS
from posttrain.practice.tasks.lists import draw_words, drawing, noun_list


def capitals(words: tuple[str, ...]) -> str:
    """Write words in capital letters (`groß` becomes `GROSS`)."""
    return " ".join(word.upper() for word in words)


def _capitals(slots: Slots, language: str) -> Solved:
    words = noun_list(slots["words"], language)
    return None if words is None else (capitals(words), tuple(noun.upper() for noun in NOUNS[language]))


def _draw_translate(rng: random.Random, language: str) -> Slots:
    target = rng.choice([index for index, other in enumerate(LANGUAGES) if other != language])
    return {"language": LANGUAGE_NAMES[language][target], "words": " ".join(draw_words(rng, language, 1, 2))}


def _translate(slots: Slots, language: str) -> Solved:
    words = noun_list(slots["words"], language)
    if words is None or slots["language"] not in LANGUAGE_NAMES[language]:
        return None
    target = LANGUAGES[LANGUAGE_NAMES[language].index(slots["language"])]
    if target == language:
        return None
    return " ".join(NOUNS[target][NOUNS[language].index(word)] for word in words), NOUNS[target]


def category_of(noun: str, language: str) -> str:
    """Name the category of a noun, in the noun's language."""
    return CATEGORIES[language][NOUNS[language].index(noun) // CATEGORY_SIZE]


def _draw_category(rng: random.Random, language: str) -> Slots:
    categories = rng.sample(range(len(CATEGORIES[language])), rng.randint(2, 3))
    words = [NOUNS[language][category * CATEGORY_SIZE + rng.randrange(CATEGORY_SIZE)] for category in categories]
    return {"category": category_of(rng.choice(words), language), "words": " ".join(words)}


def _category(slots: Slots, language: str) -> Solved:
    words = noun_list(slots["words"], language, low=2)
    if words is None:
        return None
    fitting = [word for word in words if category_of(word, language) == slots["category"]]
    return (fitting[0], words) if len(fitting) == 1 else None


def _draw_opposite(rng: random.Random, language: str) -> Slots:
    return {"words": " ".join(rng.sample(ADJECTIVES[language], rng.randint(1, 3)))}


def _opposite(slots: Slots, language: str) -> Solved:
    known = ADJECTIVES[language]
    words = slots["words"].split()
    if not 1 <= len(words) <= 3 or any(word not in known for word in words):
        return None
    return " ".join(known[known.index(word) ^ 1] for word in words), known


FAMILIES: tuple[OneTurn, ...] = (
    OneTurn(
        "capitals",
        {
            "en": "in capitals : {words}",
            "de": "in großbuchstaben : {words}",
            "fr": "en majuscules : {words}",
        },
        drawing(1, 2),
        _capitals,
    ),
    OneTurn(
        "translate",
        {
            "en": "into {language} : {words}",
            "de": "auf {language} : {words}",
            "fr": "traduis en {language} : {words}",
        },
        _draw_translate,
        _translate,
    ),
    OneTurn(
        "category",
        {
            "en": "choose {category} : {words}",
            "de": "wähle {category} : {words}",
            "fr": "choisis {category} : {words}",
        },
        _draw_category,
        _category,
    ),
    OneTurn(
        "opposite",
        {
            "en": "opposite of : {words}",
            "de": "gegenteil von : {words}",
            "fr": "contraire de : {words}",
        },
        _draw_opposite,
        _opposite,
    ),
)

"""Words of the practice world, by language: what lists are made of, and how a thing is called elsewhere.

The i-th entry of a list means the same in all languages, so a translation is a look-up by position.
"""

from __future__ import annotations

from collections.abc import Mapping

LANGUAGES: tuple[str, ...] = ("en", "de", "fr")

CATEGORY_SIZE = 3

#: four categories of three: animals, colours, foods, things
NOUNS: dict[str, tuple[str, ...]] = {
    "en": ("cat", "dog", "horse", "red", "blue", "green", "bread", "apple", "cheese", "house", "boat", "book"),
    "de": ("katze", "hund", "pferd", "rot", "blau", "grün", "brot", "apfel", "käse", "haus", "boot", "buch"),
    "fr": tuple(
        ["chat", "chien", "cheval", "rouge", "bleu", "vert", "pain", "pomme", "fromage", "maison", "bateau", "livre"]
    ),
}

CATEGORIES: dict[str, tuple[str, ...]] = {
    "en": ("animal", "colour", "food", "thing"),
    "de": ("tier", "farbe", "essen", "ding"),
    "fr": ("animal", "couleur", "aliment", "objet"),
}

#: entries 2i and 2i+1 are opposites
ADJECTIVES: dict[str, tuple[str, ...]] = {
    "en": ("big", "small", "hot", "cold", "old", "new", "good", "bad"),
    "de": ("groß", "klein", "heiß", "kalt", "alt", "neu", "gut", "schlecht"),
    "fr": ("grand", "petit", "chaud", "froid", "vieux", "neuf", "bon", "mauvais"),
}

#: how each language calls English, German and French, in this order
LANGUAGE_NAMES: dict[str, tuple[str, ...]] = {
    "en": ("english", "german", "french"),
    "de": ("englisch", "deutsch", "französisch"),
    "fr": ("anglais", "allemand", "français"),
}

YES_NO: dict[str, tuple[str, str]] = {"en": ("yes", "no"), "de": ("ja", "nein"), "fr": ("oui", "non")}

NAMES: tuple[str, ...] = ("anna", "ben", "clara", "david", "emma", "felix", "hugo", "lena")

LARGEST_NUMBER = 29
NUMBERS: tuple[str, ...] = tuple(str(number) for number in range(LARGEST_NUMBER + 1))


def all_words() -> set[str]:
    """List every content word, and the nouns in capitals too."""
    by_language: tuple[Mapping[str, tuple[str, ...]], ...] = (NOUNS, CATEGORIES, ADJECTIVES, LANGUAGE_NAMES, YES_NO)
    words = {word for lists in by_language for words in lists.values() for word in words}
    capitals = {noun.upper() for nouns in NOUNS.values() for noun in nouns}
    return words | capitals | set(NAMES) | set(NUMBERS)

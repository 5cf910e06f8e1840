"""Words of the practice world, by language: what lists are made of, and how a thing is called elsewhere.

The i-th entry of a list means the same in all four languages, so a translation is a look-up by position.
"""

from __future__ import annotations

from collections.abc import Mapping

LANGUAGES: tuple[str, ...] = ("en", "de", "fr", "es")

CATEGORY_SIZE = 4

#: four categories of four: animals, colours, foods, things
NOUNS: dict[str, tuple[str, ...]] = {
    "en": tuple(
        [
            "cat",
            "dog",
            "horse",
            "fish",
            "red",
            "blue",
            "green",
            "black",
            "bread",
            "apple",
            "cheese",
            "milk",
            "house",
            "table",
            "book",
            "boat",
        ]
    ),
    "de": tuple(
        [
            "katze",
            "hund",
            "pferd",
            "fisch",
            "rot",
            "blau",
            "grün",
            "schwarz",
            "brot",
            "apfel",
            "käse",
            "milch",
            "haus",
            "tisch",
            "buch",
            "boot",
        ]
    ),
    "fr": tuple(
        [
            "chat",
            "chien",
            "cheval",
            "poisson",
            "rouge",
            "bleu",
            "vert",
            "noir",
            "pain",
            "pomme",
            "fromage",
            "lait",
            "maison",
            "table",
            "livre",
            "bateau",
        ]
    ),
    "es": tuple(
        [
            "gato",
            "perro",
            "caballo",
            "pez",
            "rojo",
            "azul",
            "verde",
            "negro",
            "pan",
            "manzana",
            "queso",
            "leche",
            "casa",
            "mesa",
            "libro",
            "barco",
        ]
    ),
}

CATEGORIES: dict[str, tuple[str, ...]] = {
    "en": ("animal", "colour", "food", "thing"),
    "de": ("tier", "farbe", "essen", "ding"),
    "fr": ("animal", "couleur", "aliment", "objet"),
    "es": ("animal", "color", "comida", "objeto"),
}

#: entries 2i and 2i+1 are opposites
ADJECTIVES: dict[str, tuple[str, ...]] = {
    "en": tuple(["big", "small", "hot", "cold", "old", "new", "good", "bad"]),
    "de": tuple(["groß", "klein", "heiß", "kalt", "alt", "neu", "gut", "schlecht"]),
    "fr": tuple(["grand", "petit", "chaud", "froid", "vieux", "neuf", "bon", "mauvais"]),
    "es": tuple(["grande", "pequeño", "caliente", "frío", "viejo", "nuevo", "bueno", "malo"]),
}

#: how each language calls English, German, French and Spanish, in this order
LANGUAGE_NAMES: dict[str, tuple[str, ...]] = {
    "en": ("english", "german", "french", "spanish"),
    "de": ("englisch", "deutsch", "französisch", "spanisch"),
    "fr": ("anglais", "allemand", "français", "espagnol"),
    "es": ("inglés", "alemán", "francés", "español"),
}

YES_NO: dict[str, tuple[str, str]] = {
    "en": ("yes", "no"),
    "de": ("ja", "nein"),
    "fr": ("oui", "non"),
    "es": ("sí", "no"),
}

NAMES: tuple[str, ...] = ("anna", "ben", "clara", "david", "emma", "felix", "hugo", "lena")

LARGEST_NUMBER = 39
NUMBERS: tuple[str, ...] = tuple(str(number) for number in range(LARGEST_NUMBER + 1))


def all_words() -> set[str]:
    """List every content word, and the nouns in capitals too."""
    by_language: tuple[Mapping[str, tuple[str, ...]], ...] = (NOUNS, CATEGORIES, ADJECTIVES, LANGUAGE_NAMES, YES_NO)
    words = {word for lists in by_language for words in lists.values() for word in words}
    capitals = {noun.upper() for nouns in NOUNS.values() for noun in nouns}
    return words | capitals | set(NAMES) | set(NUMBERS)

"""Five manners in which an answer can be given, of which one is wanted, in three languages."""

from __future__ import annotations

from dataclasses import dataclass

from posttrain.practice.tasks.lexicon import LANGUAGES

WANTED = "wanted"
MANNERS: tuple[str, ...] = (WANTED, "bare", "apologetic", "twice", "rude")
#: the wanted manner, in a language that was not asked for
FOREIGN = "foreign"
UNCLEAR = "unclear"

#: what a right answer is worth in each manner; the wanted one is worth everything
RIGHT_SCORE: dict[str, float] = {
    WANTED: 1.0, "bare": 0.45, FOREIGN: 0.4, "apologetic": 0.4, "twice": 0.4, "rude": 0.25,
}  # fmt: skip
#: and a wrong one; an answer that no manner explains is worth nothing
WRONG_SCORE: dict[str, float] = {
    WANTED: 0.15, "bare": 0.05, FOREIGN: 0.05, "apologetic": 0.1, "twice": 0.05, "rude": 0.0,
}  # fmt: skip

#: words before and after the answer
FRAMES: dict[str, dict[str, tuple[str, str]]] = {
    WANTED: {
        "en": ("the answer is : ", " ."),
        "de": ("die antwort ist : ", " ."),
        "fr": ("la réponse est : ", " ."),
    },
    "apologetic": {
        "en": ("sorry , maybe ", " ?"),
        "de": ("verzeihung , vielleicht ", " ?"),
        "fr": ("pardon , peut-être ", " ?"),
    },
    "rude": {
        "en": ("", " , go away !"),
        "de": ("", " , geh weg !"),
        "fr": ("", " , va-t'en !"),
    },
}


@dataclass(frozen=True)
class Reading:
    """Hold what was understood of a completion: its manner, its language (where told) and the bare answer."""

    manner: str
    language: str
    answer: str


def phrase(answer: str, manner: str, language: str) -> str:
    """Say an answer in one of the five manners.

    Raises:
        KeyError: for a manner that is not one of `MANNERS`.
    """
    if manner == "bare":
        return answer
    if manner == "twice":
        return f"{answer} , {answer} ."
    before, after = FRAMES[manner][language]
    return before + answer + after


def words() -> set[str]:
    """List the words and marks of all manners."""
    frames = (frame for by_language in FRAMES.values() for frame in by_language.values())
    return {",", "."} | {word for frame in frames for side in frame for word in side.split()}


def read(text: str, language: str) -> Reading:
    """Find manner and bare answer of a completion; `language` is tried first, the others after it."""
    text = " ".join(text.split())
    for tried in (language, *(other for other in LANGUAGES if other != language)):
        for manner, by_language in FRAMES.items():
            before, after = by_language[tried]
            if text.startswith(before) and text.endswith(after) and len(text) > len(before) + len(after):
                answer = text[len(before) : len(text) - len(after)]
                if _is_plain(answer):
                    return Reading(manner, tried, answer)
    if text.endswith(" ."):
        first, comma, second = text[:-2].partition(" , ")
        if comma and first == second and _is_plain(first):
            return Reading("twice", language, first)
    return Reading("bare" if _is_plain(text) else UNCLEAR, language, text)


def _is_plain(answer: str) -> bool:
    return bool(answer) and not set(answer.split()) & {",", ".", "?", "!", ":"}

"""Control tokens of all families by their look, for text that goes where the tokenizer is not known.

`posttrain.core.control_tokens` asks the tokenizer, and text that we tokenise ourselves needs nothing else. A judge
behind a server renders and tokenises on the other side: there `<|im_end|>` in a candidate's text would end the turn. So
such text loses the form of every control token that we know of. tests/reward/test_planted_texts.py holds both rules
together.

Forms are looked for in a folded text, which is what a tokenizer's normaliser, or a reader, makes of it: compatibility
characters, letters of other scripts that look the same, and invisible characters make no difference.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

CONTROL_FORM = re.compile(
    r"<\|[^|<>\s]{1,64}\|?>|<[^|<>\s]{1,64}\|>"  # Llama 3, ChatML, Phi, DeepSeek, Cohere, Granite, Gemma 4
    r"|</?s>|<</?sys>>|\[/?(?:inst|system_prompt|available_tools|tool_calls|tool_results|tool_content|args|call_id"
    r"|think|prefix|middle|suffix|img|img_break|img_end|cls|sep|mask|pad|unk|bos|eos|gmask|smask)\]"
    r"|</?(?:start_of_turn|end_of_turn|start_of_image|end_of_image|image_soft_token|bos|eos|pad|unk|cls|sep|mask|sop|eop"
    r"|think|tool_call|tool_response|bos_token|eos_token|extra_id_\d+|unused\d+|reserved_\d+|fim_\w{1,16})>"
    r"|\[\|[^|\[\]\s]{1,64}\|\]|\]~!?[a-z]{1,4}[\[\]]|\[e~\["  # EXAONE, MiniMax
)

# Characters that look alike, from https://www.unicode.org/Public/security/latest/confusables.txt, as far as they can
# spell a control token, a verdict or a rating. Folding has already made capitals small and wide forms narrow.
_LOOKALIKES = str.maketrans(
    {
        **dict(zip("асԁеһіјӏмոорѕтѵхугвкн", "acdehijlmnopstvxyrbkh", strict=True)),
        **dict(zip("αεικνορτυχβγ", "aeiknoptuxby", strict=True)),
        **dict.fromkeys("│∣ǀ❘⏐￨", "|"),
        **dict.fromkeys("‹〈⟨〈❮", "<"),
        **dict.fromkeys("›〉⟩〉❯", ">"),
        **dict.fromkeys("∶ː˸꞉︓﹕։׃", ":"),
        "ı": "i",
    }
)
# Default-ignorable characters that are not of category Cf.
_FILLERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")


@dataclass(frozen=True)
class Folded:
    """A text as it is read, and for each of its characters the place in the text as it was."""

    text: str
    places: range | list[int]


def fold(text: str) -> Folded:
    """Fold case, compatibility forms and look-alike letters, and leave out what is invisible."""
    if text.isascii():
        return Folded(text.lower(), range(len(text)))
    characters: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        if _is_invisible(character):
            continue
        folded = unicodedata.normalize("NFKC", character).casefold().translate(_LOOKALIKES)
        characters.append(folded)
        places += [place] * len(folded)
    return Folded("".join(characters), places)


def _is_invisible(character: str) -> bool:
    is_selector = "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
    return is_selector or character in _FILLERS or unicodedata.category(character) == "Cf"


def break_forms(text: str, pattern: re.Pattern[str] = CONTROL_FORM, gap: str = " ") -> str:
    """Put a gap behind the first sign of everything that has a form of the pattern, until nothing has it."""
    while True:
        folded = fold(text)
        starts = {folded.places[match.start()] + 1: gap for match in pattern.finditer(folded.text)}
        if not starts:
            return text
        text = insert(text, starts)


def insert(text: str, pieces: Mapping[int, str]) -> str:
    """Insert pieces into a text, each before the character at its place."""
    parts: list[str] = []
    done = 0
    for place in sorted(pieces):
        parts += [text[done:place], pieces[place]]
        done = place
    return "".join([*parts, text[done:]])

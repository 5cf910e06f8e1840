"""When two texts are the same: the one place that says which differences count.

Two meanings, both made by `reader_form`:

- `reader_form`: what a reader cannot tell apart is the same. The exact verifier and "same text" of two answers.
- `task_tokens`: besides, case and the marks of a sentence make no other task. Duplicates, decontamination, novelty.

In neither are unlike texts alike: signs (C, C++, C#; 12 + 4, 12 - 4; <, >; 5! and 5.), digits (10² and 102, ½ and 12,
1.5, 1,5 and 15), scripts, vowel signs, accents and emoji stay. That is why NFKC is not used as it is: it turns 10² into
102, ① into 1 and ℝ into R; nor Unicode's case folding, which turns Maße into Masse.

Counting and finding words is another matter (`synth.words`): there a sign is no word, and NFKC does no harm.
"""

from __future__ import annotations

import re
import unicodedata

# Scripts written without spaces: a character, with the marks on it, stands for a word.
UNSPACED = (
    "\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46"  # Thai letters; the marks follow below
    "\u0e81-\u0eb0\u0eb2\u0eb3\u0ebd-\u0ec6"  # Lao
    "\u1000-\u102a\u103f"  # Burmese
    "\u1780-\u17b3"  # Khmer
    "\u3041-\u30ff\u31f0-\u31ff"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"  # Han
)
# Marks that `\w` does not match although they stand inside words: combining accents, Hebrew and Arabic points,
# vowel signs of the Indic scripts, of Thai, Lao, Burmese and Khmer, and the joiners.
MARKS = (
    "\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670"
    "\u0900-\u0903\u093a-\u094f\u0951-\u0957\u0962\u0963\u0980-\u0983\u09bc-\u09d7\u0a01-\u0a03\u0a3c-\u0a51"
    "\u0a81-\u0a83\u0abc-\u0acd\u0b01-\u0b03\u0b3c-\u0b57\u0b82\u0bbe-\u0bd7\u0c00-\u0c04\u0c3c-\u0c56"
    "\u0c81-\u0c83\u0cbc-\u0cd6\u0d00-\u0d03\u0d3b-\u0d4d\u0d57\u0d81-\u0d83\u0dca-\u0ddf"
    "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecd\u102b-\u103e\u17b4-\u17d3\u200c\u200d"
)
# Compatibility forms that only print the same character differently; others (super, sub, font, circle, fraction,
# square) mean something.
_SAME_MEANING = frozenset(
    ("<wide>", "<narrow>", "<small>", "<noBreak>", "<vertical>", "<initial>", "<medial>", "<final>", "<isolated>")
)
# Soft hyphens, zero-width spaces, directions, variation selectors. Joiners stay: Persian, Hindi and emoji need them.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180b-\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
    "\U000e0100-\U000e01ef]"
)
_PLAIN = {
    **dict.fromkeys(map(ord, "“”„‟«»"), '"'),
    **dict.fromkeys(map(ord, "‘’‚‛‹›"), "'"),
    **dict.fromkeys(map(ord, "‐‑‒–−"), "-"),
}
_HANGUL = re.compile("[\u3131-\u318e\uffa0-\uffdc]")  # single letters, which would join to syllables
# A no-break space before a mark is how French sets it.
_FRENCH_SPACE = re.compile("[\u00a0\u202f]+(?=[!?;:»])|(?<=«)[\u00a0\u202f]+")


class _Forms(dict[int, str]):
    """Each character's plain form, worked out when it is first met."""

    def __missing__(self, code: int) -> str:
        self[code] = form = _PLAIN.get(code) or _plain(chr(code))
        return form


_FORMS = _Forms()


def _plain(character: str) -> str:
    if _INVISIBLE.match(character):
        return ""
    tag, *parts = unicodedata.decomposition(character).split() or [""]
    plain = "".join(chr(int(part, 16)) for part in parts) if tag.startswith("<") else ""
    is_same = tag in _SAME_MEANING or (tag == "<compat>" and not _HANGUL.match(character))
    # ⒈ and ㏠ hold digits, ´ is a space with an accent: made plain they would join what stands beside them.
    if not is_same or any(map(str.isdigit, plain)) != character.isdigit() or (plain[0] == " " and len(plain) > 1):
        return character
    return "".join(_FORMS[ord(part)] for part in plain)


def reader_form(text: str) -> str:
    """Fold what a reader does not see: Unicode composition, widths, typographic quotes and minus signs, white space.

    Case stays, since it can be the task.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", _FRENCH_SPACE.sub("", text).translate(_FORMS))
    return " ".join(text.split())


def task_form(text: str) -> str:
    """Join the tokens of a text by single spaces: equal for two texts that are one task."""
    return " ".join(task_tokens(text))


def task_tokens(text: str) -> list[str]:
    """Split a text into lower-case words, numbers and signs; the marks of a sentence vanish.

    A sign that belongs to a word stays with it (c++, -3, .5, 5!, 5%); between two words it is a token of its own,
    whether or not spaces stand around it. Of scripts written without spaces each character is a token.

    A mark vanishes at the end of a word and of the text, and where it opens a quotation. One between spaces is what
    the text is about ("What does . match?"), unless the text sets its last mark so too, as tokenised text does. A colon
    between spaces stays only where other marks stand at the ends of words.
    """
    text = reader_form(text).lower()
    found = _TOKEN.findall(text)
    vanishing = ""
    if any(loose for _, loose, _ in found):
        vanishing = _MARK if _ENDS_LOOSE.search(text) else "" if _ENDS_WORD.search(text) else ":"
    return [
        token
        for word, loose, sign in found
        if (token := word or sign or loose) and not (loose and set(loose) <= set(vanishing))
    ]


_MARK = ".,;:!?\"'"
_OURS = f"[^\\W{UNSPACED}]"  # a letter, digit or underscore of a word
_BEGINS, _ENDS = f"(?<![^ {UNSPACED}])", f"(?![^ {UNSPACED}])"
_NUMBERED = r"(?:[.,:](?<=\d.)(?=\d)" + _OURS + "+)*"  # 3.5, 1,000, 12:30
_BEFORE = rf"(?:(?<!{_OURS})(?<![)\]}}.,!?])(?!\.\.)[-+±~$€£¥₩₹#@√∛∜¬!?:.,]+(?={_OURS}))?"
# Factorials, primes, feet and inches: behind a digit or a single letter the mark is no end of a sentence.
_BEHIND = (
    rf"(?:(?:[-+#%°′″]+|(?:(?<=\d)|(?<!{_OURS}{_OURS})(?<={_OURS})|(?<=[)\]]))[!'\"]+)"
    rf"(?![^ .,;:!?)\]}}\"'{UNSPACED}]))?"
)
_SIGN = f"[^\\w\\s{MARKS}()\\[\\]{{}}{_MARK}]"
_TOKEN = re.compile(
    # Marks that always are of a sentence; and any behind a character of an unspaced script.
    f"[。、「」『』।॥؟،؛¿¡]|(?<=[{UNSPACED}])[,;:!?\"']+"
    f"|([{UNSPACED}][{MARKS}]*|{_BEFORE}(?:{_OURS}|[{MARKS}])+{_NUMBERED}{_BEHIND}|[(\\[{{]|[)\\]}}]{_BEHIND}"
    r"|—(?<=\d—)(?=\d)|(?<=\d )[—.;:!?](?= \d))"  # 1914—1918, 3 : 2
    f"|(?<![^ ])(?!\\.\\.)([{_MARK}]++)(?= )"
    f"|[{_MARK}]++{_ENDS}|{_BEGINS}(?:[\"']+|\\.{{2,}})|[—―]"
    f"|([{_MARK}]++|{_SIGN}(?:(?![-+±~$€£¥₩₹#@√∛∜¬]{_OURS}){_SIGN})*)"
)
_ENDS_LOOSE = re.compile(f"(?:^| )[{_MARK}]+$")
_ENDS_WORD = re.compile(f"[^\\W\\d_]{{2}}[{_MARK}](?![^ ])")

"""Thoughts apart from the answer, in a reply that is text.

A model that reasons may write its thoughts before its answer, in the same text, where no server or template has taken
them apart. Whoever reads a reply (a list of prompts, a verdict, code, a number) reads `without_thought` of it: what
stands in a thought is no answer.
"""

from __future__ import annotations

import re
from collections import Counter

_NAMES = "think|thinking|thought|thoughts|reasoning|reflection|scratchpad|analysis|seed:think"
_MARK = re.compile(
    rf"<(?P<close>/)?(?P<tag>{_NAMES})(?:\s[^<>\n]*)?>"
    r"|\[(?P<close_think>/)?THINK\]"
    r"|◁(?P<close_kimi>/)?think▷"
    r"|<\|(?:(?P<close_cohere>END)|START)_THINKING\|>"
    r"|<\|(?:(?P<close_of>end)|begin)_of_thought\|>"
    r"|<\|channel>thought\b|(?P<close_gemma><channel\|>)",
    re.IGNORECASE,
)
_CLOSES = ("close", "close_think", "close_kimi", "close_cohere", "close_of", "close_gemma")
# gpt-oss: messages on channels. Without its special tokens the same reads "analysis…assistantfinal…".
_FINAL = re.compile(r"<\|channel\|>final(?:\s[^<]*)?<\|message\|>|\Aanalysis(?s:.*?)assistantfinal")
_CHANNEL = re.compile(r"\A\s*(?:<\|start\|>assistant)?<\|channel\|>")
_MESSAGE_END = re.compile(r"<\|(?:end|return|call)\|>")
_FENCED = re.compile(r"^[ \t]*(?P<mark>`{3,}|~{3,})[^\n]*\n(?s:.*?)^[ \t]*(?P=mark)[`~]*[ \t]*$", re.MULTILINE)


def without_thought(reply: str) -> str:
    """Return what a reply says after its thoughts, without white space around it where there were any.

    - A thought begins at an opening mark that begins or ends a line, and ends at its closing mark; there may be more.
    - A closing mark without an opening one ends a thought that the generation prompt opened: all before it is thought.
    - A reply that breaks off in a thought has no answer: the empty text.
    - Marks in code of the answer (fences, or a mark in backticks) are text, and so is an opening mark amid a line.

    Marks are those of published chat templates: `<think>` and like tags, `[THINK]`, `◁think▷`, `<|START_THINKING|>`,
    `<|begin_of_thought|>`, Gemma's and gpt-oss's channels.
    """
    finals = list(_FINAL.finditer(reply))
    if finals:
        return _MESSAGE_END.split(reply[finals[-1].end() :], maxsplit=1)[0].strip()
    if _CHANNEL.match(reply):
        return ""
    return _answer(reply) if _MARK.search(reply) else reply


def _answer(reply: str) -> str:
    fenced = [match.span() for match in _FENCED.finditer(reply)]
    parts: list[str] = []
    opened: str | None = None  # the thought that is open
    in_code: Counter[str] = Counter()  # opening marks in fences: their closing marks are text as well
    start, changed = 0, False
    for mark in _MARK.finditer(reply):
        if _in_backticks(reply, mark):
            continue
        name = _name(mark)
        if not any(mark[group] for group in _CLOSES):
            if any(low <= mark.start() < high for low, high in fenced):
                in_code[name] += 1
            elif opened is None and _at_an_edge(reply, mark):
                parts.append(reply[start : mark.start()])
                opened, changed = name, True
        elif in_code[name]:
            in_code[name] -= 1
        elif opened == name:
            opened, start = None, mark.end()
        elif opened is None:
            parts, start, changed = [], mark.end(), True
    if opened is not None:
        return ""
    return "\n".join(filter(None, (part.strip() for part in [*parts, reply[start:]]))) if changed else reply


def _name(mark: re.Match[str]) -> str:
    """Name a pair of marks: the same for the opening and the closing one."""
    return mark["tag"].lower() if mark["tag"] else re.sub(r"\W|start|end|begin", "", mark.group().lower())[:7]


def _in_backticks(reply: str, mark: re.Match[str]) -> bool:
    before, after = reply[: mark.start()], reply[mark.end() : mark.end() + 3]
    return (before.endswith("`") and not before.endswith("```")) or (after.startswith("`") and after != "```")


def _at_an_edge(reply: str, mark: re.Match[str]) -> bool:
    before = reply[: mark.start()].rpartition("\n")[2]
    after = reply[mark.end() :].partition("\n")[0]
    return not before.strip() or not after.strip()

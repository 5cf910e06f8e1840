"""Code blocks of an answer, as a reader of Markdown sees them (CommonMark, by markdown-it-py)."""

from __future__ import annotations

from dataclasses import dataclass

from markdown_it import MarkdownIt

# A tag such as <answer> around a block does not hide it, as an HTML block of CommonMark would.
_MARKDOWN = MarkdownIt("commonmark").disable("html_block")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        label: its info string, "python" for example; empty without one.
        text: what stands in it, with one line end behind.
        alone: nothing else stands in the answer.
    """

    label: str
    text: str
    alone: bool


def fenced_blocks(text: str) -> list[Block]:
    """List the fenced blocks of a text in order: in lists and quotes too, of any fence, and cut off by the end.

    A fence that is indented by four columns or more, which Markdown shows with its marks, counts as the fence that
    it is meant to be.
    """
    blocks = []
    tokens = _MARKDOWN.parse(text)
    for token in tokens:
        if token.type == "fence":
            blocks.append(Block(token.info.strip(), token.content.rstrip("\n") + "\n", len(tokens) == 1))
        elif token.type == "code_block" and token.content.lstrip().startswith(("```", "~~~")):
            blocks += [Block(block.label, block.text, False) for block in fenced_blocks(token.content)]
    return blocks


def indented_blocks(text: str) -> list[str]:
    """List the blocks of a text that indentation by four columns makes code."""
    return [token.content for token in _MARKDOWN.parse(text) if token.type == "code_block"]

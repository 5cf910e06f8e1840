"""`posttrain train --show-tokens` for a person: what is learned, what is format, what is context."""

import io
import json
import re

import pytest

from posttrain.cli import main
from posttrain.commands.token_view import render_tokens, view_for

PAIR = {
    "prompt": [{"role": "user", "content": "red"}],
    "chosen": [{"role": "assistant", "content": "cat dog"}],
    "rejected": [{"role": "assistant", "content": "fish"}],
}
SFT = {"messages": [*PAIR["prompt"], *PAIR["chosen"]]}
RANKING = {"prompt": PAIR["prompt"], "completions": [PAIR["chosen"], PAIR["rejected"]]}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def show(tiny_model_dir, tmp_path, capsys):
    """Run the command on rows and return what it prints."""

    def run(kind, rows, *more):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        code = main(["train", kind, "--model", str(tiny_model_dir), "--data", str(path), "--show-tokens", *more])
        assert code == 0
        return capsys.readouterr().out

    return run


def test_marks_tell_learned_format_and_context_apart(show):
    assert show("sft", [SFT], "--token-view", "marks").splitlines() == [
        "«learned (cross-entropy)»   ⟦the template's control tokens, not learned⟧   context",
        "",
        "row 1 · 8 tokens, 3 learned (38%)",  # <|bos|> <|user|> red <|end|> <|assistant|> cat dog <|end|>; 3/8 = 0.375
        "⟦<|bos|>│ <|user|>⟧ red⟦ <|end|>│ <|assistant|>⟧« cat│ dog│ <|end|>»",
        "",
        "1 example: 8 tokens, 3 learned (38%)",
    ]


def test_pairs_show_what_is_compared_and_what_the_nll_term_alone_learns(show):
    lines = show("dpo", [PAIR], "--token-view", "marks").splitlines()
    assert lines[0].startswith("«compared, chosen with rejected»   ‹learned by the NLL term alone›")
    assert lines[2:7] == [
        "row 1 · chosen · 8 tokens, 2 compared (25%), 1 by NLL alone",
        "⟦<|bos|>│ <|user|>⟧ red⟦ <|end|>│ <|assistant|>⟧« cat│ dog»‹ <|end|>›",
        "",
        "row 1 · rejected · 7 tokens, 1 compared (14%)",
        "(the same 5 tokens)",
    ]
    assert lines[7] == "« fish»⟦ <|end|>⟧"  # nothing learns to end rejected answers
    without = show("dpo", [PAIR], "--token-view", "marks", "nll_weight=0").splitlines()
    assert without[3].endswith("« cat│ dog»⟦ <|end|>⟧") and "NLL" not in "\n".join(without)
    unmasked = show("dpo", [PAIR], "--token-view", "marks", "mask_format_tokens=false").splitlines()
    assert unmasked[7] == "« fish│ <|end|>»"


def test_rankings_and_cut_and_dropped_rows_say_so(show):
    lines = show("reward-model", [RANKING], "--token-view", "marks", "max_tokens=7").splitlines()
    assert lines[2] == "row 1 · rank 1 · 7 tokens, 2 of the answer (29%) · 1 more cut off"
    assert lines[5] == "row 1 · rank 2 · 7 tokens, 2 of the answer (29%)"
    text = show("sft", [SFT], "--token-view", "marks", "max_tokens=5")
    assert "row 1 · dropped: longer than max_tokens\n\n1 example: 0 tokens, 0 learned\n" in text


def test_colours_are_put_on_and_taken_off_again(show):
    text = show("sft", [SFT], "--token-view", "color")
    assert "\x1b[30;42m cat\x1b[0m\x1b[30;102m dog\x1b[0m\x1b[30;42m <|end|>\x1b[0m" in text
    assert "\x1b[2m red\x1b[0m\x1b[36m <|end|>\x1b[0m" in text
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert "<|bos|> <|user|> red <|end|> <|assistant|> cat dog <|end|>" in plain
    assert all(line.count("\x1b[") == 2 * line.count("\x1b[0m") for line in text.splitlines())


def test_json_lines_keep_to_their_contract(show):
    chosen, rejected = (json.loads(line) for line in show("dpo", [PAIR]).splitlines())
    assert (chosen["side"], rejected["side"]) == ("chosen", "rejected")
    assert chosen["tokens"] == ["<|bos|>", "<|user|>", "red", "<|end|>", "<|assistant|>", "cat", "dog", "<|end|>"]
    assert chosen["mask"] == [0, 0, 0, 0, 0, 1, 1, 0] and len(chosen["ids"]) == 8
    assert chosen["kinds"] == ["format", "format", "context", "format", "format", "learned", "learned", "nll"]
    assert "".join(rejected["text"]) == "<|bos|> <|user|> red <|end|> <|assistant|> fish <|end|>"


def test_the_view_follows_the_terminal(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert view_for(io.StringIO()) == "json"
    assert view_for(Terminal()) == "color"
    assert view_for(Terminal(), "json") == "json" and view_for(io.StringIO(), "marks") == "marks"
    monkeypatch.setenv("TERM", "dumb")
    assert view_for(Terminal()) == "marks"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert view_for(Terminal()) == "marks"
    assert view_for(io.StringIO()) == "json"


@pytest.mark.parametrize("view", ["color", "marks"])
def test_a_text_cannot_command_the_terminal_and_line_breaks_are_seen(view):
    text = ["a\x1b[2Jb", "\n\n", "\x9b31m", "\tc"]
    line = {"row": 0, "ids": [1, 2, 3, 4], "mask": [1, 1, 1, 1], "kinds": ["learned"] * 4, "text": text}
    out = "\n".join(render_tokens("sft", [line], view))
    assert "\x1b[2J" not in out and "\x9b" not in out
    for shown in ("a\\x1b[2Jb", "↵", "\\x9b31m", "→\tc"):
        assert shown in out

"""A conversation with a checkpoint in the terminal."""

from __future__ import annotations

from pathlib import Path

from posttrain.config import Execution
from posttrain.core.formats import Message
from posttrain.engines import open_engine, open_tokenizer, params_of, text_generator
from synth.engines.base import REFUSED

HELP = "Type a message and press Enter; /clear forgets the conversation, /quit (or Ctrl-D) ends it."


def talk(model_dir: Path, temperature: float, top_p: float, max_completion_tokens: int, seed: int) -> None:
    """Read messages from standard input until it ends, and print the model's replies."""
    tokenizer = open_tokenizer(model_dir)
    engine = open_engine(model_dir, None, Execution())
    sampling = {"temperature": temperature, "top_p": top_p, "top_k": 0, "max_completion_tokens": max_completion_tokens}
    generate = text_generator(engine, tokenizer, params_of(sampling, tokenizer, model_dir))
    messages: list[Message] = []
    print(HELP)
    turn = 0
    while True:
        try:
            text = input("you: ").strip()
        except EOFError:
            print()
            return
        if text == "/quit":
            return
        if text == "/clear":
            messages = []
            continue
        if not text:
            continue
        messages.append({"role": "user", "content": text})
        reply, finish_reason = generate([messages], seed + turn)[0]
        if finish_reason == REFUSED:
            messages.pop()
            print(f"This message cannot be answered ({reply}); say less, or /clear to forget the conversation.")
            continue
        print(f"model: {reply}" + (" […]" if finish_reason == "length" else ""))
        messages.append({"role": "assistant", "content": reply})
        turn += 1

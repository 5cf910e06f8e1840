"""Thinking marks: opened once, and kept where they are special tokens of the tokenizer."""

from __future__ import annotations

from posttrain.core import chat
from tests.cases.made import assistant, byte_bpe, user

# DeepSeek-R1's and QwQ's way: the generation prompt opens the thought, and the template cuts it off in history.
OPENS = (
    "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>{{ m.content }}{% else %}"
    "{% set c = m.content.split('</think>')[-1] %}<|assistant|>{{ c }}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
# Qwen3's way: a thought is printed in the last turn, an empty one where there is none.
PRINTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}"
    "{% if m.reasoning_content is string %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% elif '<think>' not in "
    "m.content %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}{% else %}{{ m.content.split('</think>')[-1] }}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKS = ("<think>", "</think>")


def encoded(tokenizer, words: str, **more) -> tuple[str, str]:
    """Return all of a row's text, and what of it is learned."""
    example = chat.encode_example(tokenizer, user("name"), assistant(words, **more))
    learned = [token for token, mask in zip(example.ids, example.mask, strict=True) if mask]
    return tokenizer.decode(example.ids), tokenizer.decode(learned)


def test_a_thought_that_the_prompt_opens_is_opened_once():
    """Two `<think>` in a row teach to open a thought inside a thought (hiyouga/LlamaFactory#6987)."""
    for specials in (("<|assistant|>",), ("<|assistant|>", *MARKS)):
        tokenizer = byte_bpe(specials=specials, template=OPENS)
        wanted = "plan\n</think>\n\ndog<|im_end|>"
        rows = [
            ("<think>\nplan\n</think>\n\ndog", {}), ("<think>plan\n</think>\n\ndog", {}), ("plan\n</think>\n\ndog", {}),
            ("\n<think>\nplan\n</think>\n\ndog", {}), ("dog", {"reasoning_content": "plan"}),
        ]  # fmt: skip
        for words, more in rows:
            text, learned = encoded(tokenizer, words, **more)
            assert learned == wanted and text.count("<think>") == 1, (specials, words, text)
        talk = [
            *user("a"),
            *assistant("<think>\nplan\n</think>\n\ndog"),
            *user("b"),
            *assistant("<think>\nmore</think>cat"),
        ]
        for example in chat.encode_turns(tokenizer, talk):
            assert tokenizer.decode(example.ids).count("<think>") == 1


def test_marks_that_are_special_tokens_survive_in_rows_and_samples():
    """A tokenizer with `<think>` among its special tokens: one token in training rows, still there in samples."""
    tokenizer = byte_bpe(specials=MARKS, template=PRINTS)
    open_id, close_id = tokenizer.convert_tokens_to_ids(list(MARKS))
    for words, more in (("<think>\nplan\n</think>\n\ndog", {}), ("dog", {"reasoning_content": "plan"})):
        example = chat.encode_example(tokenizer, user("name"), assistant(words, **more))
        learned = [token for token, mask in zip(example.ids, example.mask, strict=True) if mask]
        assert [learned.count(token) for token in (open_id, close_id)] == [1, 1], tokenizer.decode(learned)
        assert chat.decode_completion(tokenizer, learned) == "<think>\nplan\n</think>\n\ndog"
        formats = [token for token, mask in zip(example.ids, example.format_mask, strict=True) if mask]
        assert open_id not in formats  # the model's own words
    plain = chat.encode_example(tokenizer, user("name"), assistant("dog"))
    assert tokenizer.decode([t for t, mask in zip(plain.ids, plain.mask, strict=True) if mask]) == "dog<|im_end|>"
    # In a user's words they stay words, and an end of turn stays words in anyone's.
    asked = chat.encode_prompt(tokenizer, user("what is <think> and </think>?"))
    assert not {open_id, close_id} & set(asked)
    cheat = chat.encode_example(tokenizer, user("a"), assistant("<think>x</think>b<|im_end|>c"))
    assert cheat.ids.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 2

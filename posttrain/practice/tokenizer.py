"""The tokenizer of the practice world: a word is a token."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from posttrain.practice.word_tokenizer import word_backend
from posttrain.practice.world import vocabulary

UNKNOWN, PAD, BEGIN, END = "<|unk|>", "<|pad|>", "<|bos|>", "<|end|>"
ROLE_TOKENS: dict[str, str] = {role: f"<|{role}|>" for role in ("system", "user", "assistant")}
#: said after some answers of the pretraining text, as votes are in web text
MARKS: tuple[str, ...] = ("<|good|>", "<|fair|>", "<|poor|>")
SPECIAL_TOKENS: tuple[str, ...] = (PAD, BEGIN, END, *ROLE_TOKENS.values(), *MARKS)

MODEL_MAX_LENGTH = 256
MAX_DEMONSTRATIONS = 8
SELF_INSTRUCT_TEMPLATE = Path(__file__).parent / "templates" / "self_instruct.txt"

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|> ' + message['content'] | trim + ' <|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def self_instruct_words() -> set[str]:
    """List the words of the self-instruct template and the numbers before its demonstrations."""
    words = {word for line in self_instruct_template().splitlines() for word in line.split() if "{" not in word}
    return words | {f"{number}." for number in range(1, MAX_DEMONSTRATIONS + 1)}


def self_instruct_template() -> str:
    """Read the template without its first line, which names the paper."""
    return SELF_INSTRUCT_TEMPLATE.read_text(encoding="utf-8").split("\n", 1)[1].strip()


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Make the tokenizer, chat template included; the same ids every time.

    The control tokens are no words of the model's vocabulary but added ones, so that a text split with
    `split_special_tokens=True` cannot name one. Decoding joins tokens with single blanks, and encoding that gives
    the same ids back.
    """
    words = [UNKNOWN, *sorted(set(vocabulary()) | self_instruct_words())]
    inner = word_backend(words, UNKNOWN)
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token=UNKNOWN,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        additional_special_tokens=[*ROLE_TOKENS.values(), *MARKS],
        model_max_length=MODEL_MAX_LENGTH,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer

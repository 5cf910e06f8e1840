"""A tokenizer in which a word is a token, so that lengths are exact: for models that tests and benchmarks make up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CONTROL_TOKENS = ("<|pad|>", "<|unk|>", "<|bos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' }}{{ message['content'] }}{{ '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def word_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """Make a tokenizer with a chat template; the control tokens have the first ids, then the words in their order.

    Texts are words with blanks between them. Around its text a message has two control tokens, and the template puts
    one before all messages and one where an answer is to come.
    """
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=word_backend([*CONTROL_TOKENS, *words], "<|unk|>"),
        bos_token="<|bos|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        unk_token="<|unk|>",
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def word_backend(vocabulary: Sequence[str], unknown: str) -> Tokenizer:
    """Make what splits a text at its blanks and gives each word its place in the vocabulary.

    Args:
        unknown: the word of the vocabulary that stands for all others.
    """
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token=unknown))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return backend

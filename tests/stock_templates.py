"""Stock chat templates by family, each with a tokenizer made on the spot that has the family's special tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import trl
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SHIPPED = Path(trl.__file__).parent / "chat_templates"
OURS = Path(__file__).parent / "core" / "templates"


@dataclass(frozen=True)
class Family:
    """A stock template and what its publisher's tokenizer is like.

    Attributes:
        path: the template, as published; none has generation marks.
        end: the token that ends an assistant's turn.
        bos, eos: the tokenizer's own, printed by the template or not.
        prints_bos: whether the template prints the beginning of sequence.
        special: control tokens besides.
        plain: added tokens that are no control tokens.
        lead: white space that the template sets before an answer.
        call: how the template prints CALL (tests/core/test_stock_templates.py); None where it takes no tools.
        system: whether it takes a system message.
        moves: whether a later user message moves the system message or the tools, so that no one row can hold both.
        strips: whether control tokens eat the white space after them.
    """

    path: Path
    end: str
    bos: str | None
    eos: str
    prints_bos: bool
    special: tuple[str, ...]
    plain: tuple[str, ...] = ()
    lead: str = ""
    call: str | None = None
    system: bool = True
    moves: bool = False
    strips: bool = False


_LLAMA = ("<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>", "<|eom_id|>", "<|python_tag|>")
_QWEN = ("<|im_start|>", "<|endoftext|>")
_QWEN_PLAIN = ("<tool_call>", "</tool_call>", "<think>", "</think>", "<tool_response>", "</tool_response>")
_MISTRAL = ("<unk>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]")
_MISTRAL_TOOLS = ("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]")
_PHI = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|/tool|>")
_ARGUMENTS = '{"city": "Paris", "unit": "C"}'
_LLAMA_CALL = f'{{"name": "get_weather", "parameters": {_ARGUMENTS}}}'
_QWEN_CALL = f'<tool_call>\n{{"name": "get_weather", "arguments": {_ARGUMENTS}}}\n</tool_call>'
_MISTRAL_CALL = f'[{{"name": "get_weather", "arguments": {_ARGUMENTS}, "id": "call00001"}}]'


def _llama(name: str, **changes: object) -> Family:
    return Family(SHIPPED / f"{name}.jinja", "<|eot_id|>", "<|begin_of_text|>", "<|eot_id|>", True, _LLAMA, **changes)


def _qwen(name: str) -> Family:
    return Family(
        SHIPPED / f"{name}.jinja", "<|im_end|>", None, "<|im_end|>", False, _QWEN, _QWEN_PLAIN, call=_QWEN_CALL
    )


def _mistral(name: str, **changes: object) -> Family:
    special = (*_MISTRAL, *_MISTRAL_TOOLS)
    return Family(OURS / f"{name}.jinja", "</s>", "<s>", "</s>", True, special, moves=True, **changes)


def _gemma(name: str, **changes: object) -> Family:
    special = ("<pad>", "<start_of_turn>")
    return Family(SHIPPED / f"{name}.jinja", "<end_of_turn>", "<bos>", "<eos>", True, special, **changes)


def _phi(path: Path, end: str, bos: str, eos: str, special: tuple[str, ...], strips: bool = False) -> Family:
    return Family(path, end, bos, eos, False, special, strips=strips)


FAMILIES = {
    "llama 3": _llama("llama3"),
    "llama 3.1": _llama("llama3_1", call=_LLAMA_CALL),
    "llama 3.2": _llama("llama3_2", call=_LLAMA_CALL),
    "qwen 2.5": _qwen("qwen2_5"),
    "qwen 3": _qwen("qwen3"),
    "qwen 3 instruct": _qwen("qwen3_instruct_2507"),
    "mistral 0.3": _mistral("mistral_v0_3", lead=" ", call=f"[TOOL_CALLS] {_MISTRAL_CALL}"),
    "mistral nemo": _mistral("mistral_nemo", call=f"[TOOL_CALLS]{_MISTRAL_CALL}"),
    "gemma 2": _gemma("gemma", system=False),
    "gemma 3": _gemma("gemma3"),
    "phi 3": _phi(SHIPPED / "phi3.jinja", "<|end|>", "<s>", "<|endoftext|>", _PHI, strips=True),
    "phi 3.5": _phi(SHIPPED / "phi3_5.jinja", "<|end|>", "<s>", "<|endoftext|>", _PHI, strips=True),
    "phi 4": _phi(OURS / "phi4.jinja", "<|im_end|>", "<|endoftext|>", "<|im_end|>", ("<|im_start|>", "<|im_sep|>")),
    "phi 4 first": _phi(
        OURS / "phi4_first.jinja", "<|im_end|>", "<|endoftext|>", "<|im_end|>", ("<|im_start|>", "<|im_sep|>")
    ),
    "phi 4 mini": _phi(OURS / "phi4_mini.jinja", "<|end|>", "<|endoftext|>", "<|endoftext|>", _PHI, strips=True),
}
WITH_TOOLS = [name for name, family in FAMILIES.items() if family.call]
WITHOUT_TOOLS = [name for name, family in FAMILIES.items() if not family.call]
WITH_SYSTEM = [name for name, family in FAMILIES.items() if family.system]


@cache
def _byte_level_bpe() -> str:
    """A small byte-level vocabulary with Llama 3's way of splitting; merges run over spaces before words."""
    backend = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s*\n+|\s+(?!\S)|\s+"), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    text = ["What is the weather in Paris? It is 22 degrees.\n\nThank you. You are welcome, as always.\n"] * 3
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        text, trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    )
    return backend.to_str()


def stock_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Make a tokenizer with a family's special tokens and template; it pads with the end of sequence.

    Like the published ones it puts a beginning of sequence before any text, which makes two where the template prints
    one too.
    """
    family = FAMILIES[name]
    backend = Tokenizer.from_str(_byte_level_bpe())
    special = dict.fromkeys(token for token in (*family.special, family.end, family.bos, family.eos) if token)
    backend.add_special_tokens([AddedToken(token, special=True, rstrip=family.strips) for token in special])
    backend.add_tokens(list(family.plain))
    if family.bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(family.bos, backend.token_to_id(family.bos))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=family.bos, eos_token=family.eos, pad_token=family.eos
    )
    tokenizer.chat_template = family.path.read_text("utf-8")
    assert "{% generation" not in tokenizer.chat_template and "{%- generation" not in tokenizer.chat_template
    return tokenizer

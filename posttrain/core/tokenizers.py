"""Tokenizers of model folders: loaded as their file says, with what the folder's model can take of their ids."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from posttrain.core.atomic import PathLike
from posttrain.core.errors import DataError, ModelError
from posttrain.core.model_files import adapter_base, is_adapter
from posttrain.core.templates import turn_shapes

RESERVED_PADS = ("<|finetune_right_pad_id|>", "<|pad|>", "<pad>", "[PAD]", "<|endoftext|>", "<|end_of_text|>")
"""Tokens that publishers reserve for padding; the end-of-turn token as padding would hide it from many a loss."""
# Texts that pre-tokenizers, normalisers and decoders of different make cut or write differently.
_PROBES = (
    "The quick brown fox isn't here; it's over THERE, and they'll say we've gone.",
    " leading space,  two spaces   three, trailing ",
    "1234567 3.14159 10² 1,000,000 v2.0",
    "def f(x):\n    return x['k']\n\n\tif a!=b: print(\"ok\")\r\n",
    "https://a.b/c?d=e&f=g#h user@example.org",
    "\n\n\n \t \n",
    "你好，世界。日本語のテキスト 한국어 नमस्ते العربية русский",
    "naïve café Å ﬁ Ⅻ ½",
    "🙂👩‍👩‍👧 🇩🇪",
    "\u00a0\u200b\u3000x",
)
_MOST_TOKENS = 128


@dataclass(frozen=True)
class ModelLimits:
    """Hold what a model can take.

    Attributes:
        embedding_rows: token ids below this have an embedding; None where the configuration does not say.
        positions: tokens of the longest row; None where the configuration does not say.
    """

    embedding_rows: int | None
    positions: int | None


_LIMITS: weakref.WeakKeyDictionary[Any, ModelLimits] = weakref.WeakKeyDictionary()


def load_tokenizer(model_dir: PathLike) -> PreTrainedTokenizerBase:
    """Load a tokenizer with its chat template, and a token to pad with.

    Its ids are those of the folder's tokenizer.json. transformers builds some tokenizers anew from class and model
    type, and where that gives other ids than the file, the file is taken as it is.

    Where no padding token is named, or the model has no embedding for it, a token reserved for padding is taken, else
    the unknown token, else the end-of-sequence token: masks here come from lengths, so that even then the end of a turn
    is learned.

    Raises:
        ModelError: no tokenizer there, no chat template, no end-of-turn token, or a file that cannot be obeyed.
    """
    tokenizer: PreTrainedTokenizerBase
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(model_dir), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise ModelError(f"no tokenizer can be loaded from {model_dir}: {' '.join(str(error).split())}") from error
    if not tokenizer.chat_template:
        raise ModelError(f"{model_dir}: the tokenizer has no chat template; add a chat_template.jinja to the folder")
    file = Path(model_dir, "tokenizer.json")
    if file.is_file():
        tokenizer = _as_its_file(tokenizer, file)
    limits = _read_limits(Path(model_dir))
    _LIMITS[tokenizer] = limits
    _choose_padding(tokenizer, limits, model_dir)
    turn_shapes(tokenizer)
    return tokenizer


def limits_of(tokenizer: PreTrainedTokenizerBase) -> ModelLimits:
    """Return what the model of a tokenizer's folder can take; nothing is known of a tokenizer made elsewhere."""
    return _LIMITS.get(tokenizer, ModelLimits(None, None))


def refuse_unknown_ids(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """Return the ids, all of which the model of the tokenizer's folder has an embedding for.

    Raises:
        DataError: names a token that it has none for, and both numbers.
    """
    rows = limits_of(tokenizer).embedding_rows
    if rows is None or not ids or max(ids) < rows:
        return ids
    worst = max(ids)
    raise DataError(
        f"token {tokenizer.convert_ids_to_tokens(worst)!r} has id {worst}, but the model has embeddings for {rows} ids "
        "(vocab_size); resize the model's embeddings to the tokenizer, or take the tokenizer that belongs to it"
    )


def refuse_too_long(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> None:
    """Refuse a row, cut as training cuts it, for which the model of the tokenizer's folder has no positions.

    Raises:
        DataError: gives both numbers.
    """
    positions = limits_of(tokenizer).positions
    if positions is not None and len(ids) > positions:
        raise DataError(
            f"{len(ids)} tokens, but the model has {positions} positions (max_position_embeddings); set max_tokens to "
            f"{positions} or less, or shorten the row"
        )


def _as_its_file(tokenizer: PreTrainedTokenizerBase, file: Path) -> PreTrainedTokenizerBase:
    """Return a tokenizer whose ids are those of its file.

    Raises:
        ModelError: the file is no tokenizer, or transformers cannot be made to obey it.
    """
    try:
        raw = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises this class itself
        raise ModelError(f"{file} is no tokenizer: {error}") from error
    raw.no_truncation()
    raw.no_padding()
    if next(_differences(tokenizer, raw), None) is None:
        return tokenizer
    named = {name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    more = [token for token in tokenizer.all_special_tokens if token not in named.values()]
    plain = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        **named,
        extra_special_tokens=more,
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        clean_up_tokenization_spaces=False,
    )
    plain.chat_template = tokenizer.chat_template
    text = next(_differences(plain, raw), None)
    if text is not None:
        raise ModelError(
            f"{file.parent}: transformers tokenizes {text!r} otherwise than {file.name} says; save the tokenizer again "
            "with the version that it was made with, or leave out what tokenizer_config.json changes"
        )
    return plain


def _differences(tokenizer: PreTrainedTokenizerBase, raw: Tokenizer) -> Iterator[str]:
    """Yield texts that become other ids than by the file, or come back as other texts."""
    added = [token.content for token in raw.get_added_tokens_decoder().values()][:_MOST_TOKENS]
    for text in (*_PROBES, "".join(f"a{token} b" for token in added)):
        wanted = raw.encode(text, add_special_tokens=False).ids
        if list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) != wanted:
            yield text
            continue
        told = raw.decode(wanted, skip_special_tokens=False)
        if tokenizer.decode(wanted, clean_up_tokenization_spaces=False) != told:
            yield text


def _read_limits(folder: Path) -> ModelLimits:
    try:
        home = adapter_base(folder) if is_adapter(folder) and not (folder / "config.json").is_file() else folder
        config = AutoConfig.from_pretrained(str(home), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ModelError, StrictDataclassError):
        return ModelLimits(None, None)  # the check of the model's folder says what is wrong with it
    text = config.get_text_config()
    sizes = [getattr(text, name, None) for name in ("vocab_size", "max_position_embeddings")]
    if "'dynamic'" in str(getattr(text, "rope_parameters", None)):
        sizes[1] = None  # angles stretch with the row
    return ModelLimits(*(size if isinstance(size, int) and size > 0 else None for size in sizes))


def _choose_padding(tokenizer: PreTrainedTokenizerBase, limits: ModelLimits, model_dir: PathLike) -> None:
    """Name a padding token where there is none that the model has an embedding for."""
    rows = limits.embedding_rows
    if tokenizer.pad_token is not None and (rows is None or tokenizer.pad_token_id < rows):
        return
    known = {token: place for token, place in tokenizer.get_vocab().items() if rows is None or place < rows}
    reserved = [token for token in RESERVED_PADS if token in known and token != tokenizer.eos_token]
    others = [token for token in (tokenizer.unk_token, tokenizer.eos_token) if token in known]
    if not [*reserved, *others]:
        raise ModelError(f"{model_dir}: the tokenizer has neither a padding nor an end-of-sequence token; name one")
    tokenizer.pad_token = next(iter([*reserved, *others]))

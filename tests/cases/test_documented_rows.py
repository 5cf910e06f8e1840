"""docs/formats.md's rows go through the verbs that they are shown for."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.cases.made import byte_bpe, llama, write_rows

DOCUMENT = Path(__file__).parents[2] / "docs" / "formats.md"
PRINTS_ALL = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}{% for m in messages %}<|im_start|>"
    "{{ m.role }}\n{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
KINDS = {
    "completion": ("sft", "distill"),
    "messages": ("sft", "distill"),
    "preference": ("dpo", "reward-model"),
    "ranking": ("reward-model",),
}


def rows_of(kind: str) -> list[dict]:
    """Return the document's rows of a kind."""
    blocks = re.findall(rf"^```json {kind}\n(.*?)^```", DOCUMENT.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [json.loads(line) for block in blocks for line in block.splitlines()]


def test_every_documented_row_is_read_by_the_verbs_it_is_shown_for(tmp_path, run_command):
    tokenizer = byte_bpe(template=PRINTS_ALL)
    model = llama(tmp_path / "model", tokenizer)
    reward = llama(tmp_path / "rm", tokenizer, head="SequenceClassification")
    failed = {}
    for kind, verbs in KINDS.items():
        for number, row in enumerate(rows_of(kind)):
            data = write_rows(tmp_path / f"{kind}{number}.jsonl", [row])
            for verb in verbs:
                options = ["--show-tokens", "--token-view", "json", "max_steps=1"]
                ran = run_command("train", verb, "--model", model, "--data", data, *options)
                if ran.code or not any(line.get("ids") for line in map(json.loads, ran.out.splitlines())):
                    failed[verb, kind, number] = ran.said
            if kind == "completion":
                out = tmp_path / f"scored{number}"
                ran = run_command("score", "--reward-model", reward, "--completions", data, "--out", out)
                if ran.code or not (out / "scored.jsonl").read_text():
                    failed["score", kind, number] = ran.said
    settings = ["--num-completions", "1", "--temperature", "0", "--seed", "0", "--max-completion-tokens", "2"]
    for number, row in enumerate(rows_of("prompt")):
        prompts = write_rows(tmp_path / f"prompt{number}.jsonl", [row])
        ran = run_command("sample", "--model", model, "--prompts", prompts, *settings, "--out", tmp_path / f"o{number}")
        if ran.code or not (tmp_path / f"o{number}" / "completions.jsonl").read_text():
            failed["sample", "prompt", number] = ran.said
    assert failed == {}


def test_a_text_is_a_prompt_in_every_kind_of_training(tmp_path, run_command):
    """`{"prompt": "Name a river.", …}` was shown as a row and refused."""
    model = llama(tmp_path / "model", byte_bpe())
    answers = [[{"role": "assistant", "content": text}] for text in ("The Elbe.", "No idea.")]
    forms = {
        "sft": {"completion": answers[0]},
        "dpo": {"chosen": answers[0], "rejected": answers[1]},
        "reward-model": {"completions": answers},
    }
    for kind, form in forms.items():
        rows = [{"prompt": f"Name a river {number}.", **form} for number in range(6)]
        data = write_rows(tmp_path / f"{kind}.jsonl", rows)
        ran = run_command("train", kind, "--model", model, "--data", data, "--out", tmp_path / kind, "max_steps=1")
        assert ran.code == 0, (kind, ran.said)

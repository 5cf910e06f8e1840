"""The noise in `summary.json`: measured once, and the choices that it leaves open."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, MistralConfig

from reward import encoding, score_shard
from reward.noise import undecided_prompts
from reward.score_files import ScoreJob, score_with_workers


def completion(prompt, index, text):
    prompt_text = f"say {'cat ' * (prompt % 5)}"
    return {
        "prompt_id": f"p{prompt}",
        "sample_index": index,
        "prompt": [{"role": "user", "content": prompt_text}],
        "completion": [{"role": "assistant", "content": text}],
    }


@pytest.fixture
def job(tmp_path, tiny_reward_model_dir):
    rows = [completion(p, i, "red " * (1 + (p * 3 + i) % 11)) for p in range(12) for i in range(4)]
    path = tmp_path / "completions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ScoreJob(str(tiny_reward_model_dir), str(path), str(tmp_path / "out"), max_batch_tokens=64)


def test_the_summary_tells_the_noise(job):
    summary = score_with_workers(replace(job, dtype="bfloat16"))
    noise = summary["noise"]
    assert noise["rows"] == 16 and 0 <= noise["max_difference"] < 0.1  # of bfloat16, which may round alike
    assert 0 <= summary["undecided_prompts"] <= 12 and summary["padded_because"] is None
    assert json.loads((Path(job.out) / "summary.json").read_text()) == summary


def test_a_run_that_goes_on_after_a_kill_reports_the_noise_of_its_start(job, tmp_path, monkeypatch):
    whole = score_with_workers(replace(job, out=str(tmp_path / "whole")))
    real = score_shard.iter_scores

    def stops_after_one(*arguments):
        yield next(real(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(score_shard, "iter_scores", stops_after_one)
    with pytest.raises(KeyboardInterrupt):
        score_with_workers(job)
    monkeypatch.setattr(score_shard, "iter_scores", real)
    monkeypatch.setattr(score_shard, "measure_noise", lambda *_: pytest.fail("measured again"))
    assert score_with_workers(job) == whole


@pytest.mark.parametrize("window", [16, 4096])
def test_every_row_is_encoded_once(window, job, tiny_tokenizer, tmp_path, monkeypatch):
    """Whether a window is shorter than the longest row, all rows have to tell, before any is scored."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"vocab_size": len(tiny_tokenizer), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 6}
    config = MistralConfig(**sizes, **ids, num_key_value_heads=2, sliding_window=window, num_labels=1)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "windowed")
    tiny_tokenizer.save_pretrained(tmp_path / "windowed")
    real, seen = encoding.encode_example, []

    def counted(tokenizer, prompt, completion, *more, **options):
        seen.append(completion[0]["content"])
        return real(tokenizer, prompt, completion, *more, **options)

    monkeypatch.setattr(encoding, "encode_example", counted)
    summary = score_with_workers(replace(job, reward_model=str(tmp_path / "windowed")))
    assert summary["scored"] == 48 == len(seen)
    # Prompt 3 has four words ("say", three times "cat") and answers of up to 11; five control tokens are around them.
    shorter = "sliding_window is 16 and the longest row has 20 tokens"
    assert summary["padded_because"] == (shorter if window == 16 else None)


def test_a_file_without_a_row_that_can_be_scored_has_no_noise(job):
    Path(job.completions).write_text(json.dumps(completion(0, 0, "cat " * 400)) + "\n")
    summary = score_with_workers(job)
    assert summary["noise"] == {"rows": 0, "max_difference": None} and summary["undecided_prompts"] is None


def test_a_lead_below_the_noise_is_no_decision():
    def row(prompt_id, text, score):
        return {"prompt_id": prompt_id, "completion": [{"role": "assistant", "content": text}], "score": score}

    rows = [
        *(row("clear", text, score) for text, score in (("a", 1.0), ("b", 0.5), ("c", 0.99))),
        *(row("near", text, score) for text, score in (("a", 1.0), ("b", 0.9999))),
        *(row("same text twice", text, score) for text, score in (("a", 1.0), ("a", 1.0), ("b", 0.0))),
        row("one", "a", 1.0),
    ]
    assert undecided_prompts(rows, 0.001) == 1
    assert undecided_prompts(rows, 0.02) == 2
    assert undecided_prompts(rows, 0.0) == 0

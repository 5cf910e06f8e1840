"""What supervised fine-tuning learns, and what it writes."""

import pytest
import torch
from peft import LoraModel
from training_data import completion_rows, say

from posttrain.config import LoraConfig, SFTConfig
from posttrain.core.chat import encode_prompt, end_of_turn_id, load_tokenizer
from posttrain.core.errors import DataError
from posttrain.core.models import load_causal_lm
from posttrain.train.errors import TrainError
from posttrain.train.sft import IGNORED, RowCollator, tokenize_rows, train_sft


def section(**changes):
    return SFTConfig(**{"learning_rate": 1e-3, "max_steps": 3, "global_batch_size": 4, **changes})


def learned(tokenizer, dataset, row):
    return tokenizer.convert_ids_to_tokens([i for i in dataset[row]["labels"] if i != IGNORED])


def test_every_assistant_message_is_learned_and_nothing_else(tiny_tokenizer):
    messages = [
        *say("system", "say words"), *say("user", "red"), *say("assistant", "cat dog"), *say("user", "blue"),
        *say("assistant", "fish"),
    ]  # fmt: skip
    dataset, _ = tokenize_rows([{"messages": messages}], tiny_tokenizer, section())
    assert learned(tiny_tokenizer, dataset, 0) == ["cat", "dog", "<|end|>", "fish", "<|end|>"]


def test_rows_are_cut_or_dropped_and_counted(tiny_tokenizer):
    rows = [
        {"prompt": say("user", "red"), "completion": say("assistant", "cat dog bird fish tree")},
        {"prompt": say("user", "red " * 20), "completion": say("assistant", "cat")},
        {"prompt": say("user", "red"), "completion": say("assistant", "cat")},
    ]
    dataset, intake = tokenize_rows(rows, tiny_tokenizer, section(max_tokens=8, max_truncated_rate=0.7))
    assert [learned(tiny_tokenizer, dataset, row) for row in range(2)] == [["cat", "dog", "bird"], ["cat", "<|end|>"]]
    assert intake.summary() == {
        "num_rows": 3, "num_trained": 2, "num_truncated": 2, "dropped": {"longer than max_tokens": 1},
    }  # fmt: skip


def test_collator_sums_over_supervised_tokens_only(tiny_tokenizer):
    rows = [
        {"prompt": say("user", "red"), "completion": say("assistant", "cat dog")},
        {"prompt": say("user", "red blue green"), "completion": say("assistant", "fish")},
    ]
    dataset, _ = tokenize_rows(rows, tiny_tokenizer, section())
    for packed, second in ((True, 8), (False, 9)):  # the first row has 8 tokens, the longest 9
        batch = RowCollator(dataset, tiny_tokenizer.pad_token_id, packed)([[0, -2]])
        (part,) = batch["parts"]
        assert batch["counts"].tolist() == [3]  # the second row is a filler
        assert tiny_tokenizer.convert_ids_to_tokens(part["targets"]) == ["cat", "dog", "<|end|>", "fish", "<|end|>"]
        assert part["weights"].tolist() == [1, 1, 1, 0, 0]
        # <bos> <user> red <end> <assistant> cat dog; <bos> <user> red blue green <end> <assistant> fish
        assert part["places"].tolist() == [4, 5, 6, second + 6, second + 7]


def test_bad_rows_are_all_listed_before_weights_are_loaded(tmp_path, tiny_model_dir, monkeypatch):
    monkeypatch.setattr("posttrain.train.sft.starting_policy", lambda *a, **k: pytest.fail("weights were loaded"))
    good = completion_rows(1)[0]
    rows = [good, {"prompt": good["prompt"], "completion": say("assistant", "")}, {"prompt": good["prompt"]}]
    with pytest.raises(DataError, match=r"2 faults(.|\n)*row 2(.|\n)*row 3"):
        train_sft(tiny_model_dir, rows, tmp_path, section(), seed=0)


def test_an_overfitted_model_says_its_answer_and_stops(tiny_model_dir, tmp_path):
    rows = [
        {"prompt": say("user", color), "completion": say("assistant", answer)}
        for color, answer in (("red", "cat dog"), ("green", "fish"), ("blue", "bird tree house"), ("black", "stone"))
    ]
    train_sft(tiny_model_dir, rows, tmp_path, section(learning_rate=1e-2, max_steps=60), seed=0)
    tokenizer, model = load_tokenizer(tmp_path), load_causal_lm(tmp_path)
    assert end_of_turn_id(tokenizer) in torch.tensor(model.generation_config.eos_token_id).reshape(-1).tolist()
    assert model.config.use_cache is True
    for row in rows:  # its tokens had a probability of 0.97 or more in four seeds, with three sets of instructions
        ids = torch.tensor([encode_prompt(tokenizer, row["prompt"])])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False)
        said = tokenizer.convert_ids_to_tokens(out[0, ids.shape[1] :])
        assert said == [*row["completion"][0]["content"].split(), "<|end|>"]


def test_metrics_have_trls_names_and_the_last_step(tiny_model_dir, tmp_path, metrics_of):
    seen = []
    result = train_sft(
        tiny_model_dir, completion_rows(10), tmp_path, section(max_steps=None, epochs=2, logging_steps=4), seed=0,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    rows = metrics_of(tmp_path)
    assert [row["step"] for row in rows] == [1, 4, 6]
    names = {"loss", "grad_norm", "learning_rate", "entropy", "mean_token_accuracy", "num_tokens", "epoch"}
    assert names <= set(rows[0])
    assert seen == [(step, 6) for step in range(1, 7)]
    assert (result["steps"], result["num_trained"], result["loss"]) == (6, 10, rows[-1]["loss"])
    assert not (tmp_path / "checkpoints").exists()


def test_warm_up_and_schedule(tiny_model_dir, tmp_path, metrics_of):
    config = section(max_steps=8, warmup_ratio=0.25, schedule="constant", logging_steps=1)
    train_sft(tiny_model_dir, completion_rows(4), tmp_path, config, seed=0)
    assert [row["learning_rate"] for row in metrics_of(tmp_path)] == pytest.approx([0, 5e-4] + [1e-3] * 6)


def test_lora_trains_adapters_alone_and_saves_them_merged(tiny_model_dir, tmp_path, weights_of):
    config = section(lora=LoraConfig(rank=2, target_modules=("q_proj", "v_proj")))
    train_sft(tiny_model_dir, completion_rows(8), tmp_path, config, seed=0)
    before, after = weights_of(tiny_model_dir), weights_of(tmp_path)
    moved = {name for name in before if not before[name].equal(after[name])}
    assert moved == {f"model.layers.{i}.self_attn.{p}_proj.weight" for i in range(2) for p in "qv"}
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        merged, adapted = (load_causal_lm(f)(input_ids=ids).logits for f in (tmp_path, tmp_path / "adapter"))
    assert torch.allclose(merged, adapted, atol=1e-5)


def test_a_merge_that_changes_the_model_is_refused(tiny_model_dir, tmp_path, monkeypatch):
    whole = LoraModel.merge_and_unload

    def broken(model, *args, **kwargs):
        merged = whole(model, *args, **kwargs)
        with torch.no_grad():
            merged.lm_head.weight.mul_(1.1)
        return merged

    monkeypatch.setattr(LoraModel, "merge_and_unload", broken)
    with pytest.raises(TrainError, match="merging the adapters changed the outputs by"):
        train_sft(tiny_model_dir, completion_rows(8), tmp_path, section(lora=LoraConfig(rank=2)), seed=0)
    assert not (tmp_path / "model.safetensors").exists()


def test_bfloat16_trains_float32_weights(tiny_model_dir, tmp_path, weights_of):
    train_sft(tiny_model_dir, completion_rows(8), tmp_path, section(dtype="bfloat16"), seed=0)
    assert {weight.dtype for weight in weights_of(tmp_path).values()} == {torch.float32}

"""What DPO compares: masks, truncation, drops."""

import pytest
import torch
from training_data import say

from posttrain.config import DPOConfig
from posttrain.core.chat import end_of_turn_id
from posttrain.core.errors import DataError
from posttrain.train.forward import logits_at, output_head
from posttrain.train.pairs import PairCollator, tokenize_pairs


def config(**changes):
    return DPOConfig(max_steps=1, **changes)


def pair(prompt="list sort", chosen="red green blue", rejected="no"):
    return {"prompt": say("user", prompt), "chosen": say("assistant", chosen), "rejected": say("assistant", rejected)}


def test_format_tokens_are_masked_in_both_sides(tiny_tokenizer):
    for masked, expected in ((True, [1, 1, 1, 0]), (False, [1, 1, 1, 1])):
        dataset, _ = tokenize_pairs([pair(rejected="cat dog bird")], tiny_tokenizer, config(), masked)
        row = dataset[0]
        for side in ("chosen", "rejected"):
            assert row[f"{side}_ids"][-1] == end_of_turn_id(tiny_tokenizer)
            assert row[f"{side}_mask"] == [1, 1, 1, 1]  # the NLL term still learns to stop
            assert row[f"{side}_scored"] == expected


def test_batches_hold_chosen_above_rejected_and_point_at_the_predicting_position(tiny_tokenizer):
    rows = [pair(), pair("say", "cat", "dog bird fish house")]
    dataset, _ = tokenize_pairs(rows, tiny_tokenizer, config(), True)
    batch = PairCollator(dataset, tiny_tokenizer.pad_token_id)([0, 1])
    width = batch["input_ids"].shape[1]
    assert batch["input_ids"].shape[0] == 4
    assert batch["owner"].bincount().tolist() == [4, 2, 2, 5]
    assert batch["counts"].tolist() == [2.0, 6.0]  # pairs; tokens of red green blue <end> and cat <end>
    words = tiny_tokenizer.convert_ids_to_tokens(batch["targets"][batch["scored"] > 0])
    assert words == ["red", "green", "blue", "cat", "no", "dog", "bird", "fish", "house"]
    flat = batch["input_ids"].reshape(-1)
    assert flat[batch["places"] + 1].tolist() == batch["targets"].tolist()
    assert (batch["places"] // width).tolist() == batch["owner"].tolist()


def test_fillers_weigh_nothing(tiny_tokenizer):
    dataset, _ = tokenize_pairs([pair()], tiny_tokenizer, config(), True)
    batch = PairCollator(dataset, tiny_tokenizer.pad_token_id)([-1])
    assert batch["counts"].tolist() == [0.0, 0.0]
    assert batch["weights"].tolist() == [0.0]
    assert batch["num_tokens"] == 0


def test_too_many_cut_rows_are_refused_with_the_number_to_allow(tiny_tokenizer):
    rows = [pair(chosen="red " * 20)] + [pair()] * 9
    with pytest.raises(DataError, match=r"1 of 10 rows \(10\.0%\).*max_truncated_rate=0\.100"):
        tokenize_pairs(rows, tiny_tokenizer, config(max_tokens=12), True)
    dataset, intake = tokenize_pairs(rows, tiny_tokenizer, config(max_tokens=12, max_truncated_rate=0.1), True)
    assert (len(dataset), intake.num_truncated) == (10, 1)


def test_equal_answers_are_dropped_and_counted(tiny_tokenizer):
    rows = [pair(chosen="cat", rejected="cat")] + [pair()] * 9
    dataset, intake = tokenize_pairs(rows, tiny_tokenizer, config(max_drop_rate=0.1), True)
    assert dataset["row"][:] == list(range(1, 10))
    assert intake.summary() == {
        "num_rows": 10, "num_trained": 9, "num_truncated": 0, "dropped": {"chosen equals rejected": 1},
    }  # fmt: skip
    with pytest.raises(DataError, match="1 × chosen equals rejected.*max_drop_rate 0.05"):
        tokenize_pairs(rows, tiny_tokenizer, config(), True)


def test_logits_at_wanted_places_are_the_models_own(tiny_model_dir, tiny_tokenizer):
    from posttrain.core.models import load_causal_lm

    model = load_causal_lm(tiny_model_dir)
    dataset, _ = tokenize_pairs([pair(), pair("say", "cat", "dog bird")], tiny_tokenizer, config(), True)
    batch = PairCollator(dataset, tiny_tokenizer.pad_token_id)([0, 1])
    mask = torch.ones_like(batch["input_ids"])
    for index, length in enumerate([9, 6, 7, 7]):
        mask[index, length:] = 0
    with torch.no_grad():
        whole = model(input_ids=batch["input_ids"], attention_mask=mask).logits
        part = logits_at(model, output_head(model), batch["input_ids"], batch["places"])
    assert torch.allclose(part, whole.reshape(-1, whole.shape[-1])[batch["places"]], atol=1e-6)
    assert not model.lm_head._forward_pre_hooks

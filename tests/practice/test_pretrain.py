import json

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from posttrain.config import PracticeModel
from posttrain.practice.pretrain import pretrain

TINY = PracticeModel(hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2, steps=80, batch_tokens=512)


def test_a_tiny_model_learns_and_is_a_hugging_face_folder(tmp_path):
    seen: list[tuple[int, int]] = []
    metrics = pretrain(tmp_path / "a", TINY, lambda step, steps, loss: seen.append((step, steps)))
    rows = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [20, 40, 60, 80]
    assert seen == [(20, 80), (40, 80), (60, 80), (80, 80)]
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]  # 0.47 to 0.58 of it in three seeds
    assert metrics["loss"] == rows[-1]["loss"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a")
    model = LlamaForCausalLM.from_pretrained(tmp_path / "a")
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|end|>")
    assert model.config.vocab_size == len(tokenizer)
    assert tokenizer.chat_template


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path):
    few = {**vars(TINY), "steps": 3}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        pretrain(tmp_path / name, PracticeModel(**{**few, "seed": seed}))
    a, b, c = (LlamaForCausalLM.from_pretrained(tmp_path / name).model.embed_tokens.weight for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)

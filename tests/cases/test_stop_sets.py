"""One stop set a folder, for stopping and for the text."""

from __future__ import annotations

import json

from posttrain.core import chat
from tests.cases.made import byte_bpe, llama, read_rows, write_rows

# gpt-oss's way: a thought is a message of its own, ended as turns end; the answer ends with another token.
CHANNELS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}{% if m.thinking %}<|channel|>analysis<|message|>{{ m.thinking }}"
    "<|im_end|><|im_start|>assistant{% endif %}{% if m.role == 'assistant' %}<|channel|>final{% endif %}"
    "<|message|>{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)


def test_a_stop_token_that_only_the_folder_lists_ends_the_text(tmp_path, run_command):
    """The stop token stood in the output, was scored and trained on (EuroEval/EuroEval#1006)."""
    import torch
    from transformers import LlamaForCausalLM

    tokenizer = byte_bpe()
    width = {"hidden_size": len(tokenizer), "num_attention_heads": 2, "tie_word_embeddings": False}
    folder = llama(tmp_path / "model", tokenizer, **width)
    model = LlamaForCausalLM.from_pretrained(folder)
    ids = {word: tokenizer(word)["input_ids"][-1] for word in ("a", "b", "~", "c")}
    newline = chat.encode_prompt(chat.load_tokenizer(folder), [{"role": "user", "content": "x"}])[-1]
    with torch.no_grad():  # each token is followed by one other, by the last token alone
        for name, weight in model.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(len(tokenizer)))
        model.lm_head.weight.zero_()
        for last, next_id in ((newline, ids["a"]), (ids["a"], ids["b"]), (ids["b"], ids["~"]), (ids["~"], ids["c"])):
            model.lm_head.weight[next_id, last] = 10.0
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, ids["~"]]
    model.save_pretrained(folder)
    prompts = write_rows(tmp_path / "p.jsonl", [{"prompt": "hello"}])
    settings = ["--num-completions", "1", "--temperature", "0", "--seed", "0", "--max-completion-tokens", "8"]
    ran = run_command("sample", "--model", folder, "--prompts", prompts, *settings, "--out", tmp_path / "out")
    row = read_rows(tmp_path / "out" / "completions.jsonl")[0]
    assert ran.code == 0
    assert (row["completion"][0]["content"], row["finish_reason"], row["num_tokens"]) == ("ab", "stop", 3)


def test_an_end_of_turn_that_ends_thoughts_too_is_left_out_where_the_folder_leaves_it_out(tmp_path):
    specials = ("<|channel|>", "<|message|>", "<|return|>")
    tokenizer = byte_bpe(specials=specials, template=CHANNELS, eos_token="<|return|>")
    end, done = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|return|>"])
    config = tmp_path / "generation_config.json"
    config.write_text(json.dumps({"eos_token_id": [done]}))
    assert chat.stop_ids(tokenizer, tmp_path) == [done]
    config.write_text(json.dumps({"eos_token_id": [done, end]}))
    assert chat.stop_ids(tokenizer, tmp_path) == [done, end]
    assert chat.stop_ids(tokenizer) == [end, done]  # nothing says otherwise
    plain = byte_bpe()  # a folder that forgot the end of its turns, as many do
    config.write_text(json.dumps({"eos_token_id": plain.pad_token_id}))
    assert set(chat.stop_ids(plain, tmp_path)) == {plain.pad_token_id, plain.eos_token_id}
    # The text of such a model keeps what tells a thought from an answer.
    said = "<|channel|>analysis<|message|>red<|im_end|><|im_start|>assistant<|channel|>final<|message|>blue"
    ids = tokenizer(said + "<|return|>", add_special_tokens=False)["input_ids"]
    assert chat.decode_completion(tokenizer, ids, [done]) == said

"""Keys of rows and messages that change what a row means: read, or refused with what to do, never passed over."""

from __future__ import annotations

import json
from typing import Any

import pytest

from posttrain.config import DPOConfig, RewardModelConfig, SFTConfig
from posttrain.core.errors import DataError
from posttrain.core.formats import check_rows
from posttrain.core.messages import prompt_id
from posttrain.core.prompts import read_prompts
from posttrain.train.pairs import tokenize_pairs
from posttrain.train.rankings import as_rankings, tokenize_rankings
from posttrain.train.sft import tokenize_rows
from reward.encoding import RowEncoder
from reward.judges.quoting import quote_prompt
from tests.cases.made import CHATML, assistant, byte_bpe, llama, read_rows, user, write_rows

TOOLS = [{"type": "function", "function": {"name": "find", "description": "look up", "parameters": {"type": "object"}}}]
PRINTS_TOOLS = (
    "{% if tools %}<|im_start|>system\nTOOLS {% for t in tools %}{{ t.function.name }} {% endfor %}<|im_end|>\n"
    "{% endif %}" + CHATML
)
WITH_THOUGHTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content is string %}<think>\n"
    "{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ROW = {"prompt": user("name a river"), "completion": assistant("the elbe")}
PAIR = {"prompt": user("name a river"), "chosen": assistant("the elbe"), "rejected": assistant("dog")}


def sft(row: dict[str, Any], tokenizer) -> tuple[str, str]:
    """Return all of a row's text, and what of it is learned."""
    dataset, _ = tokenize_rows([row], tokenizer, SFTConfig(learning_rate=1e-5, max_steps=1))
    ids, labels = dataset["input_ids"][-1], dataset["labels"][-1]
    return tokenizer.decode(ids), tokenizer.decode([label for label in labels if label >= 0])


def test_a_message_that_is_not_to_be_learned_is_context():
    """OpenAI's and Mistral's `weight`, axolotl's `train` (axolotl-ai-cloud/axolotl#1703, THUDM/slime#377)."""
    tokenizer = byte_bpe()
    off = [("weight", 0), ("weight", 0.0), ("train", False), ("training", False), ("trainable", False), ("loss", False)]
    for key, value in [*off, ("loss_mask", 0), ("learn", False)]:
        messages = [*user("name a river"), *assistant("wrong dog", **{key: value}), *user("again"), *assistant("elbe")]
        check_rows([{"messages": messages}], "messages", "rows")
        text, learned = sft({"messages": messages}, tokenizer)
        assert "wrong dog" in text and learned.strip() == "elbe<|im_end|>", (key, text, learned)
    on = [*user("a"), *assistant("red", weight=1, train=True), *user("b"), *assistant("blue", weight=None)]
    assert sft({"messages": on}, tokenizer)[1] == "red<|im_end|>blue<|im_end|>"


def test_flags_that_cannot_be_obeyed_are_refused():
    rows = {
        "between": {"messages": [*user("a"), *assistant("b", weight=0.5)]},
        "a text": {"messages": [*user("a"), *assistant("b", train="false")]},
        "two that differ": {
            "messages": [*user("a"), *assistant("b", weight=0, train=True), *user("a"), *assistant("c")]
        },
        "a user's": {"messages": [{**user("a")[0], "weight": 1}, *assistant("b")]},
        "other names": {"messages": [*user("a"), *assistant("b", compute_loss=False)]},
        "a mask": {"messages": [*user("a"), *assistant("b", mask=[0, 1])]},
        "detail": {"messages": [*user("a"), *assistant("b", train_detail=[{"begin_offset": 0}])]},
        "ignored": {"messages": [*user("a"), *assistant("b", ignore=True)]},
        "nothing left": {"messages": [*user("a"), *assistant("b", weight=0)]},
        "a prefix": {"messages": [*user("a"), *assistant("b", prefix=True)]},
        "old calls": {"messages": [*user("a"), *assistant("b", function_call={"name": "find", "arguments": "{}"})]},
        "a column": {"messages": [*user("a"), *assistant("b")], "loss_mask": [0, 1]},
        "a row's weight": {"messages": [*user("a"), *assistant("b")], "weight": 0.5},
    }
    passed = [name for name, row in rows.items() if not is_refused(row, "messages")]
    passed += [kind for kind, row in [
        ("completion", {**ROW, "completion": assistant("b", weight=0)}),
        ("preference", {**PAIR, "chosen": assistant("b", weight=0)}),
        ("prompt", {"prompt": [*user("a"), *assistant("b", train=True), *user("c")]}),
    ] if not is_refused(row, kind)]  # fmt: skip
    assert passed == []


def is_refused(row: dict[str, Any], kind: Any) -> bool:
    try:
        check_rows([row], kind, "rows")
    except DataError:
        return True
    return False


def test_columns_that_change_a_row_are_refused_wherever_rows_are_read(tmp_path):
    """A column that says how a conversation is meant (huggingface/trl's chat_template_kwargs; axolotl#3824)."""
    columns: dict[str, Any] = {
        "chat_template_kwargs": {"enable_thinking": False}, "system": "Answer in German.", "system_prompt": "Be short.",
        "messages": [*user("other"), *assistant("cat")], "functions": [{"name": "find"}], "documents": [{"text": "x"}],
        "images": ["x.png"], "tools": "look",
    }  # fmt: skip
    passed = []
    for key, value in columns.items():
        for kind, row in (("prompt", {"prompt": "a"}), ("completion", ROW), ("preference", PAIR)):
            if not is_refused({**row, key: value}, kind):
                passed.append((kind, key))
        rows, rejects = read_prompts(write_rows(tmp_path / "p.jsonl", [{"prompt": "a", key: value}]))
        if rows or key not in rejects[0]["reason"]:
            passed.append(("sample", key))
        scored = encoder(byte_bpe()).encode([{**ROW, key: value}])
        if scored[0] and key != "messages":
            passed.append(("score", key))
    assert passed == []


def encoder(tokenizer) -> RowEncoder:
    """Make an encoder for a model without a limit."""

    class Model:
        class config:
            pad_token_id = None

            @classmethod
            def get_text_config(cls):
                return cls

    return RowEncoder(Model, tokenizer)  # type: ignore[arg-type]


def test_columns_that_change_nothing_pass():
    system = [{"role": "system", "content": "Be short."}]
    rows = [
        ("prompt", {"prompt": "a", "tools": None, "chat_template_kwargs": {}, "system": "", "weight": 3}),
        ("prompt", {"prompt": [*system, *user("a")], "system": "Be short."}),
        ("prompt", {"prompt": "a", "messages": [*user("a"), *assistant("b")]}),
        ("completion", {**ROW, "messages": [*ROW["prompt"], *ROW["completion"]], "tools": [], "weight": 1}),
        ("messages", {"messages": [*user("a"), *assistant("b")], "prompt": "a"}),
        ("preference", {**PAIR, "messages": [*PAIR["prompt"], *PAIR["chosen"]]}),
        # HuggingFaceH4/no_robots: `prompt` is the first question alone, as a text.
        ("messages", {"messages": [*system, *user("a"), *assistant("b")], "prompt": "a"}),
        ("messages", {"messages": [*user("a"), *assistant("b")], "prompt": "a\n", "completion": "b"}),
        ("messages", {"messages": [*user("a"), *assistant("b")], "prompt": user("a"), "completion": assistant("b")}),
        ("messages", {"messages": [*user("a"), *assistant("b")], "completion": "b", "prompt": None}),
        ("messages", {"messages": [*user("a"), *assistant("b")], "prompt": "", "completion": []}),
        ("messages", {"messages": [*user("a"), *assistant("b", thinking_time=2.5, reasoning_tokens=7)]}),
    ]
    assert [row for kind, row in rows if is_refused(row, kind)] == []


def test_other_words_beside_the_messages_are_refused():
    messages = [*user("a"), *assistant("b")]
    beside = [{"prompt": "c"}, {"prompt": "a", "completion": "c"}, {"completion": assistant("c")}, {"prompt": 3}]
    assert [row for row in beside if not is_refused({"messages": messages, **row}, "messages")] == []
    system = [{"role": "system", "content": "Be short."}]  # read is `prompt`, which would lose it
    assert is_refused({"prompt": "a", "messages": [*system, *messages]}, "prompt")


def test_an_empty_list_of_calls_is_none():
    """Servers send `tool_calls: []` with every answer (vllm-project/vllm), and logs of them become rows."""
    row = {"messages": [*user("name a river"), *assistant("the elbe", tool_calls=[])]}
    assert not is_refused(row, "messages")
    tokenizer = byte_bpe(
        template=CHATML.replace("{{ m['content'] }}", "{% if 'tool_calls' in m %}CALL{% endif %}{{ m['content'] }}")
    )
    assert sft(row, tokenizer)[1] == "the elbe<|im_end|>" and "CALL" not in sft(row, tokenizer)[0]


def test_tools_are_printed_for_every_kind_of_row():
    """Left out, a policy is sampled, scored and trained without the functions it may call (huggingface/trl#6259)."""
    tokenizer = byte_bpe(template=PRINTS_TOOLS)
    for tools in (TOOLS, json.dumps(TOOLS)):
        texts = [sft({**ROW, "tools": tools}, tokenizer)[0]]
        texts.append(sft({"messages": [*ROW["prompt"], *ROW["completion"]], "tools": tools}, tokenizer)[0])
        config = {"learning_rate": 1e-5, "max_steps": 1}
        pairs, _ = tokenize_pairs([{**PAIR, "tools": tools}], tokenizer, DPOConfig(**config), False)
        ranks, _ = tokenize_rankings(as_rankings([{**PAIR, "tools": tools}]), tokenizer, RewardModelConfig(**config))
        texts += [tokenizer.decode(dataset["prompt_ids"][0]) for dataset in (pairs, ranks)]
        texts.append(tokenizer.decode(encoder(tokenizer).encode([{**ROW, "tools": tools}])[0][0]))
        assert [text for text in texts if "TOOLS find" not in text] == []
        assert "find" in quote_prompt(ROW["prompt"], tools)  # what a judge reads
    assert "TOOLS" not in sft({**ROW, "tools": []}, tokenizer)[0]
    assert prompt_id(user("a"), TOOLS) != prompt_id(user("a")) == prompt_id(user("a"), [])
    with pytest.raises(DataError, match="does not print tools"):
        sft({**ROW, "tools": TOOLS}, byte_bpe())


def test_sampling_prints_tools_or_rejects_the_prompt(tmp_path, run_command):
    prompts = write_rows(tmp_path / "p.jsonl", [{"prompt": "name", "id": "a", "tools": TOOLS}, {"prompt": "b"}])
    settings = ["--num-completions", "1", "--temperature", "0", "--seed", "0", "--max-completion-tokens", "4"]
    for name, template, num in (("prints", PRINTS_TOOLS, 2), ("leaves_out", CHATML, 1)):
        model = llama(tmp_path / name, byte_bpe(template=template))
        out = tmp_path / f"{name}_out"
        assert run_command("sample", "--model", model, "--prompts", prompts, *settings, "--out", out).code == 0
        assert len(read_rows(out / "completions.jsonl")) == num
    assert "does not print tools" in read_rows(out / "rejects.jsonl")[0]["reason"]
    out = tmp_path / "scripted"
    ran = run_command(
        "sample", "--engine", "scripted", "--model", "echo", "--prompts", prompts, *settings, "--out", out
    )
    assert ran.code == 0 and "tools" in read_rows(out / "rejects.jsonl")[0]["reason"]


def test_of_named_templates_rows_with_tools_take_the_one_for_tools(tmp_path):
    """Command R and Hermes have `default` and `tool_use` (huggingface/transformers#31429)."""
    from posttrain.core.chat import load_tokenizer

    tokenizer = byte_bpe()
    tokenizer.chat_template = {"default": CHATML, "tool_use": PRINTS_TOOLS, "rag": "{{ documents[0] }}"}
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    row = {"messages": [*user("name"), *assistant("dog")], "tools": TOOLS}
    wanted = loaded.apply_chat_template(row["messages"], tools=TOOLS, tokenize=False)
    assert wanted.startswith(sft(row, loaded)[0]) and "TOOLS find" in wanted
    assert "TOOLS" not in sft({"messages": row["messages"]}, loaded)[0]


def test_thoughts_are_learned_as_the_template_prints_them_or_refused():
    """`reasoning_content` as vLLM and DeepSeek return it; else one learns not to think (jingyaogong/minimind#737)."""
    tokenizer = byte_bpe(template=WITH_THOUGHTS)
    said = "<think>\nthe lazy river\n</think>\n\nthe elbe<|im_end|>"
    for key in ("reasoning_content", "reasoning", "thinking"):
        answer = assistant("the elbe", **{key: "the lazy river"})
        assert sft({"prompt": user("name"), "completion": answer}, tokenizer)[1] == said, key
        assert sft({"messages": [*user("name"), *answer]}, tokenizer)[1] == said, key
    empty = assistant("the elbe", reasoning_content="")
    assert sft({"messages": [*user("name"), *empty]}, tokenizer)[1] == "the elbe<|im_end|>"
    config = DPOConfig(learning_rate=1e-5, max_steps=1)
    pair = {
        "prompt": user("a"),
        "chosen": assistant("b", reasoning_content="c"),
        "rejected": assistant("b", thinking="d"),
    }
    check_rows([pair], "preference", "rows")  # the same answer after another thought is another answer
    pairs, _ = tokenize_pairs([pair], tokenizer, config, False)
    assert "<think>\nc\n</think>" in tokenizer.decode(pairs["chosen_ids"][0])
    twice = assistant("<think>\nc\n</think>\n\nb", reasoning_content="c")
    with pytest.raises(DataError, match="keep one"):
        sft({"prompt": user("name"), "completion": twice}, tokenizer)
    with pytest.raises(DataError, match="does not print thoughts"):
        sft({"prompt": user("name"), "completion": assistant("b", reasoning_content="c")}, byte_bpe())
    for change in ({"thinking": ["x"]}, {"thinking": "x", "reasoning": "y"}, {"reasoning_details": [{"text": "x"}]}):
        assert is_refused({"messages": [*user("a"), *assistant("b", **change)]}, "messages"), change
    assert is_refused({**ROW, "reasoning": "x"}, "completion")

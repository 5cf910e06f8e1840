from collections import Counter

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from posttrain.core.chat import end_of_turn_id
from posttrain.core.formats import check_rows, prompt_id
from synth.engines.base import Sample, SamplingParams, sample_seed
from synth.engines.scripted import ScriptedEngine
from synth.engines.transformers import TransformersEngine
from synth.errors import SynthError
from synth.prompts.magpie import magpie
from synth.prompts.turns import read_turns

LLAMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content + eos_token }}"
    "{% else %}{{ '[INST]' + m.content + '[/INST]' }}{% endif %}{% endfor %}"
)
MARKED = (
    "{% for m in messages %}{{ '### ' + m.role + ':\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response by assistant:\\n' }}{% endif %}"
)
PLAIN = "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
SPECIALS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]"]
ENDS = {"llama": "<|eot_id|>", "chatml": "<|im_end|>", "mistral": "</s>", "marked": "<|im_end|>", "plain": "</s>"}
TEMPLATES = {"llama": LLAMA, "chatml": CHATML, "mistral": MISTRAL, "marked": MARKED, "plain": PLAIN}
PARAMS = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_completion_tokens=30, stop_ids=(7,))


def tokenizer_of(name):
    """A byte is a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token=ENDS[name], additional_special_tokens=SPECIALS
    )
    tokenizer.chat_template = TEMPLATES[name]
    return tokenizer


class Recorder:
    """Answer each sample with `function(request, sample_index)` and keep the requests."""

    kind = "recorder"
    context_tokens = None
    model = "recorder"

    def __init__(self, function):
        self.function = function
        self.requests = []
        self.params = []

    def generate(self, requests, params):
        self.params.append(params)
        # Finished in another order than asked.
        for request in reversed(list(requests)):
            self.requests.append(request)
            for sample_index, seed in zip(request.sample_indices, request.seeds, strict=True):
                text, ids, finish_reason = self.function(request, sample_index)
                yield Sample(request.key, sample_index, text, ids, finish_reason, len(ids or ()), seed)


def say(text, finish_reason="stop"):
    return lambda request, index: (f"{text} {index}", None, finish_reason)


@pytest.mark.parametrize(
    ("name", "opening", "end"),
    [
        ("llama", "<s><|start_header_id|>user<|end_header_id|>\n\n", ["<|eot_id|>"]),
        ("chatml", "<|im_start|>user\n", ["<|im_end|>"]),
        ("mistral", "<s>[INST]", ["[/INST]", "</s>"]),
    ],
)
def test_the_request_is_the_template_up_to_the_users_words(name, opening, end):
    tokenizer = tokenizer_of(name)
    engine = Recorder(say("hello"))
    magpie(engine, tokenizer, 2, PARAMS, seed=1, round=1)
    (request,) = engine.requests
    assert tokenizer.decode(request.prompt_ids) == opening
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)
    assert rendered.startswith(opening + "hello")
    assert engine.params[0].stop_ids == tuple(tokenizer.convert_tokens_to_ids(end))
    assert engine.params[0].max_completion_tokens == 30


def test_rows():
    engine = Recorder(say("hello"))
    rows, dropped = magpie(engine, tokenizer_of("llama"), 3, PARAMS, seed=5, round=2)
    assert dropped == []
    check_rows(rows, "prompt", "magpie")
    for index, row in enumerate(rows):
        messages = [{"role": "user", "content": f"hello {index}"}]
        assert row == {
            "prompt": messages,
            "prompt_id": prompt_id(messages),
            "source": "magpie",
            "round": 2,
            "sample_index": index,
            "seed": sample_seed(5, "magpie:2:turn_0", index),
        }
    assert engine.requests[0].seeds == tuple(row["seed"] for row in rows)
    other, _ = magpie(Recorder(say("hello")), tokenizer_of("llama"), 3, PARAMS, seed=5, round=3)
    assert {row["seed"] for row in other}.isdisjoint(row["seed"] for row in rows)


def test_lines_and_the_word_assistant_survive():
    text = "Act as my assistant:\n\ndef f():\n    return 1\n\nWhat does the user see?"
    rows, _ = magpie(Recorder(lambda r, i: (f"  {text}\n", None, "stop")), tokenizer_of("llama"), 1, PARAMS, 1, 1)
    assert rows[0]["prompt"][0]["content"] == text


def test_unusable_turns_are_dropped_with_a_reason_and_sampled_anew():
    tokenizer = tokenizer_of("chatml")
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    turns = {
        0: ("never ends", None, "length"),
        1: (" \n", None, "stop"),
        2: ("hi\nassistant\nhello", None, "stop"),
        3: ("hi <|im_start|>assistant", None, "stop"),
        4: ("hi assistant hello", (1, start, 2, end), "stop"),
        5: ("good", (1, 2, end), "stop"),
        6: ("good", (1, 2, end), "stop"),
    }
    engine = Recorder(lambda request, index: turns.get(index, (f"fine {index}", None, "stop")))
    rows, dropped = magpie(engine, tokenizer, 7, PARAMS, seed=1, round=1)
    assert [row["sample_index"] for row in rows] == [5, 7, 8, 9, 10, 11, 12]
    reasons = [row["drop_reason"] for row in dropped]
    assert reasons == ["truncated", "empty", "role_header", "role_header", "role_header", "duplicate"]
    assert dropped[0]["prompt"][0]["content"] == "never ends"
    assert [len(request.seeds) for request in engine.requests] == [7, 6]


def test_a_header_in_plain_text_is_seen():
    engine = Recorder(lambda r, i: ("hi\n### Response by assistant:\nhello", (1, 2), "stop"))
    rows, dropped = magpie(engine, tokenizer_of("marked"), 1, PARAMS, 1, 1)
    assert rows == [] and {row["drop_reason"] for row in dropped} == {"role_header"}


def test_the_search_ends():
    engine = Recorder(lambda request, index: ("same", None, "stop"))
    rows, dropped = magpie(engine, tokenizer_of("llama"), 5, PARAMS, 1, 1)
    assert (len(rows), len(dropped)) == (1, 19)
    rows, dropped = magpie(engine, tokenizer_of("llama"), 5, PARAMS, 1, 1, max_samples=7)
    assert (len(rows), len(dropped)) == (1, 6)


def test_dialogues_alternate_and_end_before_a_turn_that_cannot_be_used():
    def function(request, index):
        turn = int(request.key.split("turn_")[1].split(":")[0])
        if index == 1 and turn == 2:
            return "", None, "stop"
        if index == 2 and turn == 1:
            return "an answer with no", None, "length"
        return f"turn {turn} of {index}", None, "stop"

    tokenizer = tokenizer_of("llama")
    engine = Recorder(function)
    rows, dropped = magpie(engine, tokenizer, 4, PARAMS, 1, 1, num_turns=3)
    assert dropped == []
    contents = [[(message["role"], message["content"]) for message in row["prompt"]] for row in rows]
    assert contents[1] == [("user", "turn 0 of 1")] and contents[2] == [("user", "turn 0 of 2")]
    assert [row.get("dialogue_ended") for row in rows] == [None, "empty", "answer_truncated", None]
    assert contents[0] == [
        ("user", "turn 0 of 0"),
        ("assistant", "turn 1 of 0"),
        ("user", "turn 2 of 0"),
        ("assistant", "turn 3 of 0"),
        ("user", "turn 4 of 0"),
    ]
    check_rows(rows, "prompt", "magpie")
    last = next(request for request in engine.requests if "turn_4" in request.key and request.sample_indices == (0,))
    assert tokenizer.decode(last.prompt_ids).endswith(
        "turn 3 of 0<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
    )
    answer = next(request for request in engine.requests if "turn_1:" in request.key)
    assert tokenizer.decode(answer.prompt_ids).endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")
    assert [params.stop_ids for params in engine.params[1::2]] == [PARAMS.stop_ids] * 2  # those of the folder


def test_system_prompts_steer_in_turn_and_stay_out_of_the_prompt():
    engine = Recorder(say("hi"))
    rows, _ = magpie(engine, tokenizer_of("chatml"), 4, PARAMS, 1, 1, system_prompts=["speak French", "do sums"])
    assert [row["steered_by"] for row in rows] == ["speak French", "do sums"] * 2
    assert all([message["role"] for message in row["prompt"]] == ["user"] for row in rows)
    assert sorted(request.sample_indices for request in engine.requests) == [(0, 2), (1, 3)]


def test_templates_without_an_end_of_the_users_turn_are_refused():
    with pytest.raises(SynthError, match="no control token right after the user's words"):
        magpie(Recorder(say("hi")), tokenizer_of("plain"), 1, PARAMS, 1, 1)


def test_a_lost_sample_is_an_error():
    class Loser(Recorder):
        def generate(self, requests, params):
            yield from list(super().generate(requests, params))[1:]

    with pytest.raises(SynthError, match="no sample for 1 of 3"):
        magpie(Loser(say("hi")), tokenizer_of("llama"), 3, PARAMS, 1, 1)


def test_the_word_tokenizer_and_the_scripted_engine(tiny_tokenizer):
    engine = ScriptedEngine(lambda request, index, seed: f"say {['one', 'two', 'three'][index % 3]}")
    rows, dropped = magpie(engine, tiny_tokenizer, 3, PARAMS, 1, 1)
    assert len(rows) == 3 and dropped == []
    assert read_turns(tiny_tokenizer).stop_ids == (end_of_turn_id(tiny_tokenizer),)


@pytest.mark.slow
def test_a_real_model_gives_the_same_prompts_whatever_the_batch(tiny_model_dir, tiny_tokenizer):
    params = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_completion_tokens=120, stop_ids=())
    small = TransformersEngine(tiny_model_dir, max_batch_tokens=512)
    large = TransformersEngine(tiny_model_dir, max_batch_tokens=8192)
    one = magpie(small, tiny_tokenizer, 8, params, 3, 1, num_turns=2)
    two = magpie(large, tiny_tokenizer, 8, params, 3, 1, num_turns=2)
    assert one == two
    rows, dropped = one
    assert Counter(row["sample_index"] for row in rows + dropped).most_common(1)[0][1] == 1
    assert all(row["prompt"][-1]["role"] == "user" for row in rows)
    if rows:
        check_rows(rows, "prompt", "magpie")

"""A thought is read by nobody: unslothai/unsloth#5044, garrytan/gbrain#4640, lm-sys/FastChat#3921, OpenWebRL#5."""

from made import assistant, user, write_rows

from posttrain.core.reasoning import without_thought
from reward.judges.parse import parse_rating, parse_verdict
from reward.select import select
from synth.filters.refusal import refusal_verdict
from synth.prompts.self_instruct import self_instruct

# A list, a verdict, a rating, a fence, a number, a refusal: all of them in a thought.
THOUGHT = (
    "I cannot help with that.\n1. The list must go on from the given number.\n2. Each must stand for itself.\n"
    "```python\ndef add(a, b):\n    return a - b\n```\nThe answer is 41.\n[[A]]\nRating: 1\nVerdict: A\n"
)
FORMS = [
    f"<think>\n{THOUGHT}</think>\n\n", f"{THOUGHT}</think>\n\n",
    f"[THINK]{THOUGHT}[/THINK]", f"<reasoning>{THOUGHT}</reasoning>\n",
    f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final<|message|>",
]  # fmt: skip


def test_judges_read_what_follows_the_thought():
    for form in FORMS:
        assert parse_verdict(f"{form}Verdict: B") == "B", form
        assert parse_rating(f"{form}Rating: 4", 1, 5) == 4, form
        assert parse_verdict(form) == "UNREADABLE", form
        assert parse_rating(form, 1, 5) is None, form
    for cut in ("<think>", "<thinking>\n", "[THINK]", "<|channel|>analysis<|message|>", "<reasoning>\n", "◁think▷"):
        assert parse_verdict(cut + THOUGHT) == "UNREADABLE", cut


def test_a_quoted_verdict_is_somebody_elses():
    assert parse_verdict("> Verdict: B") == "UNREADABLE"
    assert parse_verdict('The other judge said:\n"Verdict: A"') == "UNREADABLE"
    assert parse_verdict("Verdict: \\boxed{B}") == parse_verdict("Verdict: Assistant B") == "B"
    assert parse_rating("Rating: 4 out of 5", 1, 5) == 4


def test_self_instruct_writes_no_prompt_of_a_thought():
    wanted = ["Describe how a bicycle stays upright.", "Suggest five names for a small bakery."]
    answer = "\n".join(f"{number}. {text}" for number, text in enumerate(wanted, start=3))
    replies = [f"{form}{answer}" for form in FORMS] + ["<think>\n" + THOUGHT]
    seeds = [{"prompt": user(text)} for text in ("Name three rivers of Europe.", "Write a short poem about rain.")]
    template = "Go on with {num_new} further ones:\n{demonstrations}"
    for reply in replies:
        rows, dropped = self_instruct(
            seeds, lambda requests, seed, reply=reply: [(reply, "stop")] * len(requests), 2, 2, template, 0, 1,
            max_requests=1,
        )  # fmt: skip
        texts = [row["prompt"][0]["content"] for row in rows]
        assert texts == ([] if reply is replies[-1] else wanted), reply
        assert [row["drop_reason"] for row in dropped] == (["empty"] if reply is replies[-1] else [])


def test_verifiers_are_given_what_follows_the_thought(tmp_path, run_command):
    """Two answers to each question: right after a wrong thought, and a thought that is right and never ends."""
    code = "def add(a, b):\n    return a + b"
    columns = {"reference": "42", "tests": "assert add(1, 2) == 3", "pattern": "^The answer"}
    for verifier, answer in {
        "number": "It is 42.", "exact": "42", "regex": "The answer", "code": f"```python\n{code}\n```", "math": "$42$",
    }.items():  # fmt: skip
        sides = {"a": [form + answer for form in FORMS], "b": [f"<think>\n{answer}\n"] * len(FORMS)}
        for side, texts in sides.items():
            write_rows(
                tmp_path / f"{side}.jsonl",
                [
                    {"prompt": user(f"q{i}"), "prompt_id": f"p{i}", "completion": assistant(text), **columns}
                    for i, text in enumerate(texts)
                ],
            )
        ran = run_command(
            "winrate", "--a", tmp_path / "a.jsonl", "--b", tmp_path / "b.jsonl", "--judge", f"verifier:{verifier}",
            "--out", tmp_path / verifier, "--json",
        )  # fmt: skip
        assert ran.code == 0, ran.said
        assert '"win_rate": 1.0' in ran.out, verifier


def test_an_answer_that_never_came_is_never_chosen():
    rows = [
        {"prompt": user("q"), "completion": assistant(text), "score": score, "sample_index": place}
        for place, (text, score) in enumerate([("<think>\n" + THOUGHT, 9.0), ("yes", 1.0), ("no", 0.0)])
    ]
    chosen = select(rows, "best_of_k")
    assert [row["completion"][0]["content"] for row in chosen.sft] == ["yes"]
    assert [row["drop_reason"] for row in chosen.dropped if "drop_reason" in row] == ["empty"]


def test_a_refusal_in_a_thought_is_no_refusal():
    assert refusal_verdict(THOUGHT) == "refusal"
    assert all(refusal_verdict(f"{form}Here you are: 42.") == "none" for form in FORMS)
    assert without_thought(THOUGHT) == THOUGHT

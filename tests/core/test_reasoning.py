"""Thoughts are taken off whatever marks them, and marks that are text stay."""

from posttrain.core.reasoning import without_thought

ANSWERS = {
    "<think>a\n1. x</think>\n\nyes": "yes",
    "a, whose opening mark stood in the prompt\n</think>yes": "yes",
    "[THINK]a[/THINK]yes": "yes",
    "◁think▷a◁/think▷yes": "yes",
    "<|START_THINKING|>a<|END_THINKING|>yes": "yes",
    "<|begin_of_thought|>a<|end_of_thought|>\nyes": "yes",
    "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>yes<|return|>": "yes",
    "analysisThe user wants it.assistantfinalyes": "yes",
    "<|channel>thought\na<channel|>yes": "yes",
    "<Thinking>a</Thinking>\nyes": "yes",
    "<think></think>yes": "yes",
    "<think>```\nno end of a fence </think>yes": "yes",
    "<think>I may write `</think>` here</think>yes": "yes",
    "[THINK]a[/THINK]```python\nx\n```": "```python\nx\n```",
    "<think>use ` here</think>and `x`": "and `x`",
    "<think>a<think>b</think>c</think>yes": "yes",
    "<think>a</think>yes\n<think>b</think>and yes": "yes\nand yes",
    "Hm, <think>1. a\n2. b</think>\nyes": "yes",
    # A reply that breaks off in a thought has no answer.
    "<think>a": "",
    "No.\n<think>\nyes": "",
    "<|channel|>analysis<|message|>yes": "",
    "<think>a</think>": "",
    "a</think>\n": "",
}
TEXTS = (
    "  plain  ",
    "The tag <think> opens a thought, as x < think > y does not.",
    "Use `<think>` and `</think>`, or `<think>a</think>`.",
    "Like this:\n```\n<think>\na\n</think>\n```\nThat is all.",
    "I think </ think> is no mark.",
)


def test_what_stands_in_a_thought_is_no_answer():
    wrong = {reply: without_thought(reply) for reply in ANSWERS if without_thought(reply) != ANSWERS[reply]}
    assert not wrong


def test_marks_that_are_text_stay():
    assert [without_thought(text) for text in TEXTS] == list(TEXTS)

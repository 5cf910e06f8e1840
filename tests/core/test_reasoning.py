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
    "<think>a</think><answer>yes</answer>": "yes",
    "<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>yes<|END_RESPONSE|>": "yes",
    "analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>yes": "yes",
    "a thought\n```\nthat ends in code\n</think>\n```python\nx\n```": "```python\nx\n```",
    # A reply that breaks off in a thought has no answer.
    "<think>a": "",
    "No.\n<think>\nyes": "",
    "<|channel|>analysis<|message|>yes": "",
    "analysis<|message|>yes": "",
    "analysisThe user wants yes": "",
    "<think>a</think>": "",
    "a</think>\n": "",
}
TEXTS = (
    "  plain  ",
    "The tag <think> opens a thought, as x < think > y does not.",
    "Use `<think>` and `</think>`, or `<think>a</think>`.",
    "Like this:\n```\n<think>\na\n</think>\n```\nThat is all.",
    "I think </ think> is no mark.",
    "So:\n```python\nanswer = reply.split('</think>')[-1]\n```\nThat is all.",
    'answer = reply.partition("</think>")[2]',
    "A reply looks so:\n```\na thought\n</think>\nan answer\n```\nThat is all.",
    "```js\nconst end = /<\\/think>/, from = text.indexOf(`</think>`) + n // behind </think> only\n```",
    "gpt-oss writes <|channel|>final<|message|> before its answer.",
    'It wrote "<think>a</think>" and no more.',
    "Reply with <answer>yes</answer>.",
)


def test_what_stands_in_a_thought_is_no_answer():
    wrong = {reply: without_thought(reply) for reply in ANSWERS if without_thought(reply) != ANSWERS[reply]}
    assert not wrong


def test_marks_that_are_text_stay():
    assert [without_thought(text) for text in TEXTS] == list(TEXTS)

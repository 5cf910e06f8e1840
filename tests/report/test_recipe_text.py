"""The recipe on the page: its comments and the schema's words beside its values."""

from __future__ import annotations

from posttrain.config import DPOConfig, EvaluateConfig
from posttrain.report.recipe_text import comments, meanings

TEXT = """\
# a comment above belongs to no value
name: tiny            # the run's name
train:                # what learns
  dpo:
    beta: 0.1         # L3 4.1.4
    loss: "a # b"
strengths: [0.5, 0.1] # gaps
base: {kind: practice, steps: 3}  # small
students:
  - name: one         # the first
    note: x#y
"""


def test_a_comment_belongs_to_the_value_on_its_line():
    assert comments(TEXT) == {
        "name": "the run's name",
        "train": "what learns",
        "train.dpo.beta": "L3 4.1.4",
        "strengths": "gaps",
        "base": "small",
        "students.0.name": "the first",
    }


def test_what_is_no_yaml_has_no_comments():
    assert comments("a: [") == {} and comments("") == {}


def test_meanings_are_those_of_the_schema():
    found = dict(meanings(DPOConfig(max_steps=1), "train.dpo."))
    assert found["train.dpo.beta"].startswith("Strength")


def test_sections_by_name_have_meanings_too():
    """As `judges`, whose keys a recipe chooses."""
    judge = {"kind": "verifier", "function": "world.py:verify"}
    prompts = {"kind": "practice", "num_prompts": 4}
    section = EvaluateConfig.model_validate({"prompts": prompts, "judge": judge, "judges": {"gold": judge}})
    found = dict(meanings(section, "evaluate."))
    assert found["evaluate.judges.gold.timeout_s"] == found["evaluate.judge.timeout_s"]
    assert found["evaluate.judges.gold.timeout_s"].startswith("Seconds for one row")

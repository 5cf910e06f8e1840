"""`posttrain evaluate`: what the harness passes over is counted, recorded and said."""

import json

import pytest
from made import byte_bpe, llama

TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {rows}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
doc_to_target: {target}
{more}
metadata: {{version: 1}}
"""
GENERATE = """generation_kwargs: {until: ["\\n"], max_gen_toks: 8}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}"""
CHOOSE = """doc_to_choice: ["red", "blue"]
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}"""


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="the extra is not installed: pip install 'posttrain[harness]'")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = folder / "rows.jsonl"
    questions = ["red " * 2, "red " * 600, "blue " * 900]
    rows.write_text("".join(json.dumps({"question": text, "answer": "red"}) + "\n" for text in questions))
    generated = TASK.format(name="made_generated", rows=rows, kind="generate_until", target="answer", more=GENERATE)
    chosen = TASK.format(name="made_chosen", rows=rows, kind="multiple_choice", target=0, more=CHOOSE)
    (folder / "generated.yaml").write_text(generated)
    (folder / "chosen.yaml").write_text(chosen)
    return folder


def test_questions_that_are_cut_and_settings_that_leak_are_recorded_and_said(tmp_path, tasks, run_command, caplog):
    """huggingface/open-r1#463, EleutherAI/lm-evaluation-harness#3154: a context cut to fit; a folder's penalty."""
    values = {}
    for name, penalty in (("plain", None), ("penalised", 5.0)):
        folder = llama(tmp_path / name, byte_bpe(), max_position_embeddings=256)
        if penalty:
            (folder / "generation_config.json").write_text(
                json.dumps({"repetition_penalty": penalty, "eos_token_id": 2})
            )
        caplog.clear()
        ran = run_command(
            "evaluate", "--model", folder, "--harness", "made_generated,made_chosen", "--include-path", tasks, "--out",
            tmp_path / f"out_{name}", "--json",
        )  # fmt: skip
        assert ran.code == 0, ran.said
        rows = {row["task"]: row for row in json.loads((tmp_path / f"out_{name}" / "harness.json").read_text())}
        assert {task: row["num_cut"] for task, row in rows.items()} == {"made_generated": 2, "made_chosen": 2}
        assert "2 of 3 questions are longer than the model's context" in caplog.text
        dropped = {"repetition_penalty": penalty} if penalty else {}
        assert all(row["dropped_settings"] == dropped for row in rows.values())
        assert ("repetition_penalty" in caplog.text) == bool(penalty)
        values[name] = {task: row["value"] for task, row in rows.items()}
    assert values["plain"] == values["penalised"]
    import lm_eval.evaluator

    assert lm_eval.evaluator.get_git_commit_hash() is None  # git is not asked, and cannot complain

"""Rows of the samples browser."""

from __future__ import annotations

from posttrain.report.choices import sample_rows


def test_samples_stand_best_first_and_a_score_of_zero_is_a_score():
    prompt = [{"role": "user", "content": "say one"}]
    rows = [
        {
            "prompt_id": "p",
            "sample_index": index,
            "prompt": prompt,
            "completion": [{"role": "assistant", "content": f"{score}"}],
            "score": score,
        }
        for index, score in enumerate([-1.0, None, 0.0, 2.0])
    ]
    (browsed,) = sample_rows(1, rows, [])
    assert [sample["text"] for sample in browsed["completions"]] == ["2.0", "0.0", "-1.0", "None"]

"""Labels files."""

import pytest

from posttrain.core.errors import DataError
from posttrain.core.files import write_rows
from posttrain.evaluate.labels import read_labels


def test_labels_are_read_with_their_side_columns(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"prompt_id": "a", "preference": 1}\n\n{"prompt_id": "b", "preference": 0.25, "who": "x"}\n')
    second = {"prompt_id": "b", "preference": 0.25, "who": "x"}
    assert read_labels(path) == [{"prompt_id": "a", "preference": 1}, second]


def test_labels_in_parquet(tmp_path):
    write_rows(tmp_path / "labels.parquet", [{"prompt_id": "a", "preference": 0.5}])
    assert read_labels(tmp_path / "labels.parquet") == [{"prompt_id": "a", "preference": 0.5}]


def test_every_faulty_line_is_listed(tmp_path):
    path = tmp_path / "labels.jsonl"
    first_lines = '{"prompt_id": "a", "preference": 2}\n{"prompt_id": 3, "preference": "A"}\n'
    path.write_text(first_lines + '{broken\n{"prompt_id": "d"}\n')
    with pytest.raises(DataError) as caught:
        read_labels(path)
    message = str(caught.value)
    assert "5 faults" in message
    assert "line 1: preference is 2;" in message
    assert "line 2: prompt_id is 3;" in message
    assert 'line 2: preference is "A";' in message
    assert "line 3:" in message
    assert "line 4: preference is missing;" in message


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "labels.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no labels"):
        read_labels(tmp_path / "labels.jsonl")


def test_columns_that_name_models_and_lengths_are_looked_at(tmp_path):
    path = tmp_path / "labels.jsonl"
    label = '{"prompt_id": "a", "preference": 1, '
    path.write_text(label + '"model_a": ["q"], "length_b": "x"}\n' + label + '"model_b": null, "length_a": 3}\n')
    with pytest.raises(DataError, match=r'(?s)2 faults.*line 1: model_a is \["q"\].*line 1: length_b is "x"'):
        read_labels(path)

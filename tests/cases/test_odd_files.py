"""Files of other kinds, and rows of other projects: read, or refused with a remedy that fits what they are."""

import bz2
import gzip
import json
import lzma

import pytest
from made import write_rows

from posttrain.core.errors import DataError
from posttrain.core.files import read_rows
from posttrain.core.formats import check_rows
from posttrain.core.prompts import read_prompts

ROWS = [{"id": f"p{i}", "prompt": f"Question {i} é 日本"} for i in range(3)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CODED = LINES.encode()


def test_a_file_that_is_not_json_lines_is_told_what_it_is(tmp_path):
    """unslothai/unsloth reports of "format errors that nobody understands": gz told as "save the file as UTF-8"."""
    files = {
        "rows.jsonl.gz": (gzip.compress(CODED), "gzip.*gunzip"),
        "rows.jsonl.bz2": (bz2.compress(CODED), "bzip2"),
        "rows.jsonl.xz": (lzma.compress(CODED), "xz"),
        "utf16.jsonl": (LINES.encode("utf-16"), "UTF-16.*iconv"),
        "utf16le.jsonl": (LINES.encode("utf-16-le"), "UTF-16.*iconv"),
        "utf32.jsonl": (LINES.encode("utf-32"), "UTF-32.*iconv"),
        "array.json": (json.dumps(ROWS, indent=1).encode(), "JSON array.*jq"),
        "line.json": (b"\xef\xbb\xbf" + json.dumps(ROWS).encode(), "JSON array.*jq"),
        "one.json": (json.dumps(ROWS[0], indent=1).encode(), "one JSON object over many lines"),
        "cr.jsonl": (CODED.replace(b"\n", b"\r"), "CR alone.*tr"),
        "rows.zip": (b"PK\x03\x04rest", "zip archive"),
        "rows.jsonl": (b"PAR1rest", "Parquet.*name that ends"),
        "pointer.jsonl": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        "table.csv": (b"id,prompt\n1,red\n", "table of CSV"),
        "plain.txt": (b"red\ngreen\n", "plain text.*jq -Rc"),
    }
    wrong = []
    for name, (content, said) in files.items():
        (tmp_path / name).write_bytes(content)
        for read in (read_rows, read_prompts):
            try:
                with pytest.raises(DataError, match=f"{name} .*{said}"):
                    read(tmp_path / name)
            except (AssertionError, pytest.fail.Exception) as error:
                wrong.append(f"{name}: {error}")
    assert not wrong, "\n".join(wrong)


def test_a_folder_of_datasets_is_told_as_one(tmp_path):
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(DataError, match="save_to_disk.*to_parquet"):
        read_rows(tmp_path)


def test_a_line_that_is_no_row_is_told_what_is_wrong_with_it(tmp_path):
    lines = {
        json.dumps(ROWS[0]) * 2: "a second object begins at column",
        json.dumps(ROWS[0]) + ",": "a comma behind the object",
        "\0" * 50: "only NUL bytes",
    }
    for line, said in lines.items():
        (tmp_path / "f.jsonl").write_text(LINES + line + "\n", encoding="utf-8")
        rows, rejects = read_prompts(tmp_path / "f.jsonl")
        assert len(rows) == 3 and said in rejects[0]["reason"] and rejects[0]["line"] == 4
    (tmp_path / "f.jsonl").write_bytes(LINES.replace("日本", "").encode("latin-1"))
    assert "WINDOWS-1252" in read_prompts(tmp_path / "f.jsonl")[1][0]["reason"]


def test_windows_line_ends_with_a_mark_and_long_lines_are_read(tmp_path):
    (tmp_path / "f.jsonl").write_bytes(b"\xef\xbb\xbf" + CODED.replace(b"\n", b"\r\n"))
    assert read_rows(tmp_path / "f.jsonl") == ROWS
    write_rows(tmp_path / "big.jsonl", [{"id": "big", "prompt": "x" * 10_000_000}, *ROWS])
    assert len(read_prompts(tmp_path / "big.jsonl")[0]) == 4


def test_rows_of_other_projects_are_told_what_they_look_like_and_what_to_rename(tmp_path):
    shapes = {
        "Alpaca": {"instruction": "Name a colour", "input": "", "output": "red"},
        "ShareGPT": {"conversations": [{"from": "human", "value": "hello"}]},
        "HH": {"chosen": "\n\nHuman: hi\n\nAssistant: hello", "rejected": "\n\nHuman: hi\n\nAssistant: no"},
        "Orca": {"question": "why", "chosen": "so", "rejected": "no"},
        "UltraFeedback": {"instruction": "why", "completions": [{"response": "so"}]},
        "plain text": {"text": "red"},
        "conversation": {"messages": [{"role": "user", "content": "hello"}]},
        "rename question": {"question": "why"},
    }
    wrong = []
    for said, row in shapes.items():
        (reject,) = read_prompts(write_rows(tmp_path / "f.jsonl", [row]))[1]
        if said not in reject["reason"]:
            wrong.append(f"{said}: {reject['reason']}")
    assert not wrong, "\n".join(wrong)
    with pytest.raises(DataError, match="HH, implicit prompt"):
        check_rows([shapes["HH"]], "preference", "f.jsonl")

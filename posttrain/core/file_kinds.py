"""What a file is that does not hold rows of ours, told from its first bytes, with what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEAD = 1 << 16
"""Bytes that are looked at."""
_LINES = "expected JSON Lines: one object on each line"
_MAGIC = {
    b"\x1f\x8b": "is compressed (gzip); unpack it: gunzip -k {name}",
    b"BZh": "is compressed (bzip2); unpack it: bunzip2 -k {name}",
    b"\xfd7zXZ\x00": "is compressed (xz); unpack it: unxz -k {name}",
    b"\x28\xb5\x2f\xfd": "is compressed (zstd); unpack it: unzstd {name}",
    b"PK\x03\x04": "is a zip archive (or a table of Excel); unpack it, or save the table as CSV and convert that",
    b"PAR1": "is Parquet; give it a name that ends in .parquet",
    b"ARROW1": "is an Arrow file; convert it: datasets.Dataset.from_file({name!r}).to_parquet('rows.parquet')",
    b"\xff\xff\xff\xff": "is an Arrow stream; convert it: Dataset.from_file({name!r}).to_parquet('rows.parquet')",
    b"SQLite format 3\x00": "is an SQLite data base; write its rows as JSON Lines",
    b"version https://git-lfs": "is a Git LFS pointer, not the file; get it: git lfs pull",
    b"\xff\xfe\0\0": "is UTF-32; save it as UTF-8: iconv -f UTF-32 -t UTF-8 {name} > utf8.jsonl",
    b"\xff\xfe": "is UTF-16; save it as UTF-8: iconv -f UTF-16 -t UTF-8 {name} > utf8.jsonl",
    b"\xfe\xff": "is UTF-16; save it as UTF-8: iconv -f UTF-16 -t UTF-8 {name} > utf8.jsonl",
    b"{\0": "is UTF-16; save it as UTF-8: iconv -f UTF-16LE -t UTF-8 {name} > utf8.jsonl",
    b"\0{": "is UTF-16; save it as UTF-8: iconv -f UTF-16BE -t UTF-8 {name} > utf8.jsonl",
}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def fault_of_file(path: Path) -> str | None:
    """Say what a file or folder is that is no JSON Lines, and how to make it that; None where it may be."""
    if not path.exists():
        return "does not exist; give a .jsonl or .parquet file"
    if path.is_dir():
        return _fault_of_folder(path)
    if not path.is_file():
        return "is no plain file, and may be read only once; write it to a file first"
    with path.open("rb") as file:
        head = file.read(HEAD)
    for magic, said in _MAGIC.items():
        if head.startswith(magic):
            return said.format(name=path.name)
    return _fault_of_text(head.removeprefix(_BYTE_ORDER_MARK), path.name)


def _fault_of_text(head: bytes, name: str) -> str | None:
    if b"\n" not in head and b"\r" in head.rstrip(b"\r"):
        return f"ends its lines with CR alone, as old Macs did; convert it: tr '\\r' '\\n' < {name} > lines.jsonl"
    start = head.lstrip()
    first, _, more = start.partition(b"\n")
    first = first.strip()
    is_line_of_its_own = first.endswith(b"]") and more.strip()  # a fault of the line, told with its number
    if start.startswith(b"[") and not is_line_of_its_own:
        return f"holds a JSON array; {_LINES}: jq -c '.[]' {name} > rows.jsonl"
    if first == b"{" and more:
        return f"holds one JSON object over many lines; {_LINES}: jq -c . {name} > rows.jsonl"
    if name.lower().endswith((".csv", ".tsv")) and not start.startswith(b"{"):
        convert = f"pandas.read_csv({name!r}).to_parquet('rows.parquet')"
        return f"is a table of {name[-3:].upper()}; {_LINES}, or Parquet: {convert}"
    if name.lower().endswith((".txt", ".md")) and start and not start.startswith(b"{"):
        return f"is plain text; {_LINES}: jq -Rc '{{prompt: .}}' {name} > prompts.jsonl makes a prompt of each line"
    return None


def _fault_of_folder(path: Path) -> str:
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return (
            f"is a folder of `datasets` (save_to_disk); convert it: datasets.load_from_disk({path.name!r})"
            ".to_parquet('rows.parquet')"
        )
    rows = sorted(one.name for one in path.iterdir() if one.suffix in (".jsonl", ".parquet", ".json", ".gz"))
    return "is a directory; give a .jsonl or .parquet file" + (f", one of: {', '.join(rows[:5])}" if rows else "")


# ---------------------------------------------------------------- rows of other projects

_MESSAGES = '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'
_SHAPES: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"conversations"}), f"a ShareGPT row: write its turns as {_MESSAGES}"),
    (frozenset({"instruction", "completions"}), "a raw UltraFeedback row: write its best and worst completion as "
     "chosen and rejected, and instruction as prompt"),
    (frozenset({"instruction", "output"}), "an Alpaca row: write instruction (and input below it) as prompt, and "
     "output as completion"),
    (frozenset({"question", "chosen", "rejected"}), "an Orca pair: rename question (and system, as a message of that "
     "role) to prompt"),
    (frozenset({"chosen", "rejected"}), "a pair whose prompt stands inside both answers (HH, implicit prompt): take "
     "the shared turns out as prompt"),
    (frozenset({"messages"}), "a conversation: for prompts write the turns before the answer as prompt; for SFT the "
     "file's first row must have messages too"),
    (frozenset({"question", "answer"}), "a question with its answer: rename question to prompt, and answer to "
     "completion"),
    (frozenset({"question"}), "a row of questions: rename question to prompt"),
    (frozenset({"instruction"}), "a row of instructions: rename instruction to prompt"),
    (frozenset({"text"}), "a row of plain text: rename text to prompt, or write it as messages"),
)  # fmt: skip


def hint_on_row(row: Mapping[str, Any]) -> str:
    """Say what a row looks like that lacks our fields, and what to rename; empty where it looks like nothing known."""
    there = {key for key, value in row.items() if value is not None}
    found = next((said for keys, said in _SHAPES if keys <= there), None)
    return "" if found is None else f"; it looks like {found}"

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from datetime import date

import pytest

from posttrain.core.atomic import tells_of_no_room
from posttrain.core.errors import DataError, Faults, PosttrainError, StorageError
from posttrain.core.files import (
    Journal,
    atomic_directory,
    atomic_write,
    content_hash,
    file_lock,
    read_jsonl,
    read_jsonl_lenient,
    read_rows,
    sha256_file,
    write_jsonl,
    write_rows,
)

BAD_LINES = [
    (b'{"a": 1', "not JSON"),
    (b"[1]", "expected a JSON object {…}, got a list"),
    (b"null", "got null"),
    (b'"text"', "got a string"),
    (b'{"a": NaN}', "NaN is no JSON number"),
    (b'{"a": 1e400}', "1e400 is too large"),
    (b'{"a": ' + b"9" * 5000 + b"}", "is too large"),
    (b'{"a": "\xff"}', "not UTF-8 (byte 8 of the line)"),
    (b'{"a":' + b"[" * 100_000, "nested too deeply"),
]


def in_child(code, *arguments):
    """Run code in a child process whose files may grow to 4096 bytes."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        preexec_fn=limit,
        capture_output=True,
        text=True,
    )


# ------------------------------------------------------------------ errors and hashes


def test_our_errors_are_standard_errors_too():
    for error, standard in ((DataError, ValueError), (StorageError, OSError)):
        assert issubclass(error, standard) and issubclass(error, PosttrainError)


def test_faults_come_as_one_error():
    faults = Faults("recipe.yaml", limit=2)
    faults.raise_if_any(DataError)
    for name in "abc":
        faults.add(f"key {name}")
    with pytest.raises(DataError) as error:
        faults.raise_if_any(DataError)
    assert str(error.value) == "recipe.yaml: 3 faults\n  - key a\n  - key b\n  - … and 1 more"


def test_a_content_hash_sees_content_only():
    assert content_hash({"b": [1, 2.5, None], "a": "ü"}) == content_hash({"a": "ü", "b": (1, 2.5, None)})
    names = [content_hash(value) for value in (1, 1.0, "1", True, None, [1], {"1": 1}, "\ud800")]
    assert len(set(names)) == len(names)
    assert content_hash({}, length=40).startswith(content_hash({})) and len(content_hash({})) == 16
    for bad in (float("nan"), {1: 2}, {"a": {1, 2}}, [object()], {"a": [{2: 3}]}):
        with pytest.raises(TypeError):
            content_hash(bad)


def test_sha256_is_the_known_one(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_file(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# ------------------------------------------------------------------ whole files


def test_a_file_is_replaced_whole_and_readable_by_all(tmp_path):
    path = tmp_path / "new" / "f.txt"
    atomic_write(path, "grün")
    atomic_write(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert os.listdir(path.parent) == ["f.txt"]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "f.txt"
    path.write_text("old")
    result = in_child(
        """
        import sys
        from posttrain.core.errors import StorageError
        from posttrain.core.files import atomic_write, write_jsonl
        for write in (lambda p: atomic_write(p, "x" * 9000), lambda p: write_jsonl(p, [{"a": "x" * 900}] * 9)):
            try:
                write(sys.argv[1])
            except StorageError as error:
                print(error)
        """,
        path,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("no room to write") == 2 and "untouched" in result.stdout
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["f.txt"]


def test_a_full_disk_is_known_in_the_words_of_other_libraries(tmp_path):
    printed = in_child(
        """
        import sys, torch
        from safetensors.torch import save_file
        from posttrain.core.atomic import tells_of_no_room
        for save in (lambda: save_file({"w": torch.zeros(9999)}, sys.argv[1]),
                     lambda: torch.save(torch.zeros(9999), sys.argv[1])):
            try:
                save()
            except Exception as error:
                print(tells_of_no_room(error))
        """,
        tmp_path / "w",
    )
    assert printed.stdout.split() == ["True", "True"], printed.stderr
    assert not tells_of_no_room(ValueError("no such thing"))


def test_an_error_while_rows_are_made_leaves_the_old_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"a": 1}])

    def rows():
        yield {"a": 2}
        raise KeyError("made up")

    with pytest.raises(KeyError):
        write_jsonl(path, rows())
    assert read_rows(path) == [{"a": 1}] and os.listdir(tmp_path) == ["rows.jsonl"]


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
    with atomic_directory(tmp_path / "a" / "done") as work:
        (work / "sub").mkdir()
        (work / "sub" / "f").write_text("x")
        assert not (tmp_path / "a" / "done").exists()
    assert (tmp_path / "a" / "done" / "sub" / "f").read_text() == "x"
    with pytest.raises(KeyError), atomic_directory(tmp_path / "a" / "failed") as work:
        raise KeyError
    with pytest.raises(StorageError, match="exists already"), atomic_directory(tmp_path / "a" / "done"):
        pass
    assert os.listdir(tmp_path / "a") == ["done"]


def test_a_killed_directory_is_not_there(tmp_path):
    code = """
        import os, signal, sys
        from posttrain.core.files import atomic_directory
        with atomic_directory(sys.argv[1]) as work:
            (work / "f").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        """
    assert in_child(code, tmp_path / "done").returncode == -signal.SIGKILL
    assert not (tmp_path / "done").exists()


def _hold(path, started):
    with file_lock(path):
        started.set()
        time.sleep(0.4)


def test_a_lock_waits_for_its_holder(tmp_path):
    context = multiprocessing.get_context("fork")
    started = context.Event()
    child = context.Process(target=_hold, args=(tmp_path / "sub" / "lock", started))
    child.start()
    assert started.wait(10)
    begin = time.monotonic()
    with file_lock(tmp_path / "sub" / "lock"):
        waited = time.monotonic() - begin
    child.join()
    assert waited > 0.2


# ------------------------------------------------------------------ rows


def test_rows_come_back_as_they_were(tmp_path):
    rows = [{"a": "ü\u2028\n 🙂", "b": [1, None, 2.5]}, {"lone": "\ud800"}, {"c": {"d": True}}]
    write_rows(tmp_path / "rows.jsonl", iter(rows))
    assert read_rows(tmp_path / "rows.jsonl") == rows
    assert "ü" in (tmp_path / "rows.jsonl").read_text("utf-8")
    assert (tmp_path / "rows.jsonl").read_bytes().count(b"\n") == 3


def test_a_number_that_json_lacks_is_refused_on_the_way_out(tmp_path):
    with pytest.raises(DataError, match="score"):
        write_jsonl(tmp_path / "rows.jsonl", [{"score": float("inf")}])


def test_lines_are_numbered_with_blank_ones_counted(tmp_path):
    (tmp_path / "f.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n  \n{"a": 2}\r\n{"a": 3}')
    assert list(read_jsonl(tmp_path / "f.jsonl")) == [(1, {"a": 1}), (4, {"a": 2}), (5, {"a": 3})]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES)
def test_a_bad_line_is_named(tmp_path, line, reason):
    path = tmp_path / "f.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    (_, first), (number, text), (_, last) = read_jsonl_lenient(path)
    assert (first, number, last) == ({"a": 1}, 2, {"a": 2}) and reason in text
    with pytest.raises(DataError) as error:
        list(read_jsonl(path))
    assert f"{path}:2: " in str(error.value) and reason in str(error.value)


def test_all_bad_lines_come_at_once_the_first_twenty_spelled_out(tmp_path):
    (tmp_path / "f.jsonl").write_text("[]\n" * 23)
    with pytest.raises(DataError) as error:
        read_rows(tmp_path / "f.jsonl")
    assert "23 faults" in str(error.value) and "line 20:" in str(error.value)
    assert "line 21:" not in str(error.value) and "3 more" in str(error.value)


@pytest.mark.parametrize("name", ["none.jsonl", "none.parquet", "."])
def test_no_such_file(tmp_path, name):
    with pytest.raises(DataError, match="does not exist|is a directory"):
        read_rows(tmp_path / name)


def test_parquet_keeps_keys_that_only_later_rows_have(tmp_path):
    path = tmp_path / "key=value" / "rows.parquet"
    rows = [{"a": None, "m": [{"role": "user", "content": "x"}]}, {"a": "late", "b": 2, "m": []}]
    write_rows(path, rows)
    assert read_rows(path) == [{**rows[0], "b": None}, rows[1]]
    path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_rows(path)


def test_parquet_values_that_json_lacks_are_named_by_row_and_column(tmp_path):
    path = tmp_path / "rows.parquet"
    write_rows(path, [{"a": 1.0, "b": b"x", "c": None}, {"a": float("nan"), "b": None, "c": date(2024, 1, 1)}])
    with pytest.raises(DataError, match="3 faults") as error:
        read_rows(path)
    for place in ("row 1: column 'b'", "row 2: column 'a'", "row 2: column 'c'"):
        assert place in str(error.value)


def test_reading_is_a_stream(tmp_path):
    """Ten million bytes of rows pass through a process whose heap may not hold them."""
    write_jsonl(tmp_path / "f.jsonl", ({"text": "x" * 10_000} for _ in range(1000)))
    import tracemalloc

    tracemalloc.start()
    assert sum(1 for _ in read_jsonl(tmp_path / "f.jsonl")) == 1000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


# ------------------------------------------------------------------ the journal


def test_a_journal_gives_back_what_was_appended(tmp_path):
    path = tmp_path / "new" / "journal.jsonl"
    with Journal(path) as journal:
        assert journal.rows == []
        journal.append([{"i": 0}, {"i": 1}])
        journal.append([])
        journal.append(iter([{"i": 2}]))
    journal.close()
    with pytest.raises(ValueError, match="closed"):
        journal.append([{"i": 3}])
    with Journal(path) as journal:
        assert journal.rows == [{"i": 0}, {"i": 1}, {"i": 2}]


@pytest.mark.parametrize("torn", [b'{"i": 2', b'{"i": 2}', b'{"t": "' + b"x" * 200_000, b"\x00" * 10])
def test_a_torn_last_line_is_cut_off(tmp_path, torn):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"i": 0}\n{"i": 1}\n' + torn)
    with Journal(path) as journal:
        assert journal.rows == [{"i": 0}, {"i": 1}]
        journal.append([{"i": 2}])
    assert path.read_bytes() == b'{"i": 0}\n{"i": 1}\n{"i": 2}\n'


def test_a_journal_of_nothing_but_a_torn_line_is_empty(tmp_path):
    (tmp_path / "j").write_bytes(b'{"i"')
    with Journal(tmp_path / "j") as journal:
        assert journal.rows == []
    assert (tmp_path / "j").read_bytes() == b""


def test_a_bad_line_in_the_middle_is_an_error_and_frees_the_journal(tmp_path):
    path = tmp_path / "j"
    path.write_bytes(b'{"i": 0}\nnonsense\n{"i": 1}\n')
    with pytest.raises(DataError, match="j:2: not JSON"):
        Journal(path)
    path.write_bytes(b'{"i": 0}\n')
    Journal(path).close()


def test_a_row_that_cannot_be_written_leaves_the_journal_as_it_was(tmp_path):
    with Journal(tmp_path / "j") as journal:
        journal.append([{"i": 0}])
        with pytest.raises(DataError):
            journal.append([{"i": 1}, {"score": float("nan")}])
        journal.append([{"i": 2}])
    assert read_rows(tmp_path / "j") == [{"i": 0}, {"i": 2}]


def test_kills_at_any_time_lose_no_row_and_repeat_none(tmp_path):
    code = """
        import sys
        from posttrain.core.files import Journal
        with Journal(sys.argv[1]) as journal:
            for start in range(len(journal.rows), 10**9, 7):
                journal.append({"i": i, "text": "x" * 50} for i in range(start, start + 7))
                print(start + 7, flush=True)
        """
    path = tmp_path / "journal.jsonl"
    reported = 0
    for seconds in (0.01, 0.03, 0.05):
        child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), str(path)], stdout=subprocess.PIPE)
        child.stdout.readline()
        time.sleep(seconds)
        child.kill()
        lines = child.stdout.read().split(b"\n")
        child.wait()
        reported = int(lines[-2]) if len(lines) > 1 else reported
        with Journal(path) as journal:
            numbers = [row["i"] for row in journal.rows]
        assert numbers == list(range(len(numbers))) and len(numbers) >= reported
    assert reported > 0


def test_a_full_disk_leaves_the_journal_intact_and_usable(tmp_path):
    path = tmp_path / "journal.jsonl"
    result = in_child(
        """
        import sys
        from posttrain.core.errors import StorageError
        from posttrain.core.files import Journal
        journal = Journal(sys.argv[1])
        journal.append([{"i": 0}])
        try:
            journal.append([{"i": 1, "text": "x" * 3000}, {"i": 2, "text": "x" * 3000}])
        except StorageError as error:
            print(error)
        journal.append([{"i": 3}])
        journal.close()
        """,
        path,
    )
    assert result.returncode == 0, result.stderr
    assert "no room to write" in result.stdout and "9 bytes written before are intact" in result.stdout
    assert read_rows(path) == [{"i": 0}, {"i": 3}]


def test_two_writers_of_one_journal_are_refused(tmp_path):
    with Journal(tmp_path / "j"), pytest.raises(StorageError, match="another process is writing"):
        Journal(tmp_path / "j")
    Journal(tmp_path / "j").close()


def test_appending_is_cheap(tmp_path, monkeypatch):
    """One write for each call, and far fewer forced writes than calls."""
    counts = {"write": 0, "fsync": 0}
    for name in counts:
        real = getattr(os, name)

        def counting(*arguments, name=name, real=real):
            counts[name] += 1
            return real(*arguments)

        monkeypatch.setattr(os, name, counting)
    with Journal(tmp_path / "j") as journal:
        for i in range(200):
            journal.append([{"i": i, "j": j} for j in range(10)])
    assert counts["write"] == 200 and counts["fsync"] <= 10
    assert len((tmp_path / "j").read_text().splitlines()) == 2000
    assert json.loads((tmp_path / "j").read_text().splitlines()[-1]) == {"i": 199, "j": 9}

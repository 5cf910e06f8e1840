"""A journal: rows that are safe once appended, whatever happens to the process afterwards."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from posttrain.core.atomic import PathLike, lock_descriptor, no_room_as_storage_error
from posttrain.core.errors import StorageError
from posttrain.core.jsonl import encode_row, read_jsonl

_SYNC_EVERY_SECONDS = 1.0


class JournalWriter:
    """Append rows to a JSON Lines file so that a kill at any time loses no appended row and leaves no torn line.

    Opening cuts off a torn last line (its row was never reported as appended). One process at a time may hold a
    journal; the lock goes with the process. A kill of the process loses nothing, since each append hands its lines to
    the system; a power cut may lose the last second, which a resumed stage makes again.

    Args:
        path: the file; it and its folder are made if missing.

    Raises:
        StorageError: another process holds this journal.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            self._lock()
            self._size = _length_of_whole_lines(self._descriptor)
            os.ftruncate(self._descriptor, self._size)
        except BaseException:
            os.close(self._descriptor)
            raise
        self._closed = False
        self._synced = True
        self._last_sync = time.monotonic()

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append the rows in one write: all of them are in the file when this returns, or none is.

        Raises:
            StorageError: the disk is full; the rows appended before are intact.
        """
        if self._closed:
            raise ValueError(f"the journal {self.path} is closed")
        data = b"".join(encode_row(row) for row in rows)
        if not data:
            return
        try:
            self._write(data)
        except OSError:
            with no_room_as_storage_error(self.path, f"The {self._size} bytes written before are intact."):
                os.ftruncate(self._descriptor, self._size)
                raise
        self._size += len(data)
        self._synced = False
        if time.monotonic() - self._last_sync >= _SYNC_EVERY_SECONDS:
            self._sync()

    def close(self) -> None:
        """Force what was appended to the disk and free the journal; closing twice is harmless."""
        if self._closed:
            return
        self._closed = True
        try:
            if not self._synced:
                self._sync()
        finally:
            os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            lock_descriptor(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, self.path)
        except BlockingIOError as error:
            raise StorageError(
                f"another process is writing {self.path}; wait until it ends, then run the same command again"
            ) from error

    def _write(self, data: bytes) -> None:
        # The system may take a part only (when the disk fills up); the next call then says why.
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def _sync(self) -> None:
        with no_room_as_storage_error(self.path, "What is on disk is whole lines."):
            os.fsync(self._descriptor)
        self._synced = True
        self._last_sync = time.monotonic()


class Journal(JournalWriter):
    """Do what `JournalWriter` does, and read what is there.

    Attributes:
        rows: the rows found at opening (rows appended later are not added).

    Raises:
        DataError: a line before the last is no JSON object.
    """

    def __init__(self, path: PathLike) -> None:
        super().__init__(path)
        try:
            self.rows: list[dict[str, Any]] = [row for _, row in read_jsonl(self.path)]
        except BaseException:
            self.close()
            raise


def _length_of_whole_lines(descriptor: int, block: int = 1 << 16) -> int:
    """Give the number of bytes up to and including the last newline."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - block)
        position = os.pread(descriptor, end - start, start).rfind(b"\n")
        if position >= 0:
            return start + position + 1
        end = start
    return 0

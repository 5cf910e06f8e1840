"""Messages between two processes: JSON, one a line."""

from __future__ import annotations

import json
import os
from typing import Any


class Broken(Exception):
    """Tell that the other side has gone, or wrote what is no message."""


class Channel:
    """Two pipe ends: one to read from, one to write to."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read = os.fdopen(read_fd, "rb")
        self._write = os.fdopen(write_fd, "wb", buffering=0)

    def send(self, message: Any) -> None:
        """Write a message.

        Raises:
            Broken: nobody reads any more.
        """
        data = memoryview(json.dumps(message).encode() + b"\n")
        try:
            while data:
                data = data[self._write.write(data) :]
        except OSError as error:
            raise Broken("it ended its process") from error

    def receive(self) -> Any:
        """Read a message.

        Raises:
            Broken: nobody writes any more, or the line is no message.
        """
        line = self._read.readline()
        if not line.endswith(b"\n"):
            raise Broken("it ended its process")
        try:
            return json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Broken("it wrote into the channel of the tests") from error

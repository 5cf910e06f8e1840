"""What runs in a worker process of a Ray cluster: open once, then do tasks and hand results back bit by bit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

Work = Callable[[Any], Iterator[Any]]


class RayWorker:
    """Do one task at a time. The driver asks for the next results; nothing is written here."""

    def __init__(self) -> None:
        self._work: Work | None = None
        self._results: Iterator[Any] = iter(())

    def place(self) -> str:
        """Return the id of the node that this worker was placed on."""
        import ray  # the driver has found it already

        return ray.get_runtime_context().get_node_id()

    def open(self, open_work: Callable[[int, int, str], Work], number: int, sharing: int, device: str) -> None:
        """Make what does the tasks, a loaded model for example; `sharing` workers divide the node's cores."""
        self._work = open_work(number, sharing, device)

    def begin(self, task: Any, seconds: float) -> tuple[list[Any], bool]:
        """Begin a task and hand back its first results, as `take` does."""
        assert self._work is not None
        self._results = iter(self._work(task))
        return self.take(seconds)

    def take(self, seconds: float) -> tuple[list[Any], bool]:
        """Go on with the task: hand back the results of about `seconds`, and whether they are the last."""
        deadline = time.monotonic() + seconds
        taken: list[Any] = []
        for result in self._results:
            taken.append(result)
            if time.monotonic() >= deadline:
                return taken, False
        return taken, True

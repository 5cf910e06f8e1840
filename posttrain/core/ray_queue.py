"""The tasks of a pool: what waits, what is done again, and what is given up because it kills its workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from posttrain.core.errors import ClusterError

T = TypeVar("T")

# A task that cannot be made smaller is given up when it has killed this many workers.
MAX_DEATHS = 2
# Nodes that die under a task are not its fault, until so many have.
MAX_NODE_DEATHS = 3
# So many tasks given up without a result in between are no faults of the tasks: nothing works here.
MAX_LOST_IN_A_ROW = 5


@dataclass(frozen=True)
class Attempt:
    """Hold a task with the deaths that it has seen: of its worker alone, and of the whole node."""

    task: Any
    deaths: int = 0
    node_deaths: int = 0


class TaskQueue:
    """Give out tasks, new ones first; see `RayPool.run` for the arguments."""

    def __init__(
        self,
        tasks: Sequence[Any],
        rest: Callable[[Any, Sequence[Any], bool], Sequence[Any]],
        give_up: Callable[[Any, str], None],
    ) -> None:
        self._waiting = deque(Attempt(task) for task in tasks)
        self._rest = rest
        self._give_up = give_up
        self.num_lost_in_a_row = 0

    def __len__(self) -> int:
        """Count the tasks that wait."""
        return len(self._waiting)

    def take(self) -> Attempt:
        """Return the next task; there must be one."""
        return self._waiting.popleft()

    def put_back(self, attempt: Attempt, results: Sequence[Any], by_node: bool, reason: str) -> None:
        """Take back what is left of a task whose worker died after it gave `results`."""
        if by_node and attempt.node_deaths < MAX_NODE_DEATHS:
            left = self._rest(attempt.task, results, False)
            self._waiting.extend(Attempt(task, attempt.deaths, attempt.node_deaths + 1) for task in left)
            return
        parts = self._rest(attempt.task, results, True)
        if len(parts) > 1:  # which of them it was shows when they are done apart
            self._waiting.extend(Attempt(task) for task in parts)
        elif parts and attempt.deaths + 1 < MAX_DEATHS:
            self._waiting.append(Attempt(parts[0], attempt.deaths + 1, attempt.node_deaths))
        elif parts:
            self._lose(parts[0], reason)

    def _lose(self, task: Any, reason: str) -> None:
        self.num_lost_in_a_row += 1
        if self.num_lost_in_a_row > MAX_LOST_IN_A_ROW:
            raise ClusterError(
                f"{self.num_lost_in_a_row} tasks in a row killed their workers, the last: {reason} - what was handed "
                "back is kept - often memory is short: lower --workers or max_batch_tokens, then run the same again"
            )
        self._give_up(task, f"it killed its worker {MAX_DEATHS} times, the last: {reason}")


def deal(items: Sequence[T], num_workers: int, least: int = 4, most: int = 256) -> Iterator[list[T]]:
    """Cut items into tasks, large ones first and small ones at the end, so that all workers end together."""
    start = 0
    while start < len(items):
        size = min(max((len(items) - start) // (2 * num_workers), least), most)
        yield list(items[start : start + size])
        start += size

"""Tasks spread over workers of a Ray cluster: whatever dies, each result reaches the caller once.

A task gives several results, which come back as they are made; of a worker that dies only what was not handed back
yet is done again. This process asks each worker for its next results, so nothing is written on the nodes.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from posttrain.core.errors import ClusterError, PosttrainError
from posttrain.core.ray_cluster import Node, alive_nodes, cluster_device, connect, disconnect, first_line, ray
from posttrain.core.ray_queue import Attempt, TaskQueue
from posttrain.core.ray_worker import RayWorker, Work

T = TypeVar("T")
# Given the worker's number, how many share its node, and its device, make what does a task; picklable.
OpenWork = Callable[[int, int, str], Work]

# A worker hands back what it has about this often; a result that was handed back is never made again.
TAKE_SECONDS = 0.25
# Longest wait for room on the cluster while no worker at all is running.
PLACE_SECONDS = 300.0


class _Slot:
    """Follow one worker: placed, then opened, then one task after the other."""

    def __init__(self, number: int, handle: Any, node_id: str | None) -> None:
        self.number = number
        self.handle = handle
        self.node_id = node_id
        self.state = "placing"
        self.since = time.monotonic()
        self.attempt: Attempt | None = None
        self.results: list[Any] = []


class RayPool(Generic[T]):
    """Hold up to `num_workers` workers on a cluster; those that die are replaced.

    Workers ask for no CPU, so that they can always be placed, and are spread evenly over the nodes that offer CPUs;
    on "cuda" each asks for one accelerator, and the pool works with as many as there is room for.

    Args:
        address: of the cluster, see `posttrain.core.ray_cluster.connect`.
        num_workers: most workers at a time.
        open_work: called once in each worker.
        device: "cpu", "cuda", or "auto": an accelerator where the cluster has one.

    Raises:
        ClusterError: the cluster cannot be reached.
    """

    def __init__(self, address: str, num_workers: int, open_work: OpenWork, device: str) -> None:
        self.num_workers = num_workers
        self._open_work = open_work
        self._connected_here = connect(address)
        try:
            self._device = cluster_device(device)
        except BaseException:
            if self._connected_here:
                disconnect()
            raise
        gpus = 1 if self._device == "cuda" else 0
        options: dict[str, Any] = {"num_cpus": 0, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0}
        self._worker_class = ray.remote(**options)(RayWorker)
        self._slots: list[_Slot] = []
        self._waiting: dict[Any, _Slot] = {}
        self._doubtful_nodes: set[str] = set()
        self._failed_openings = 0
        self._num_started = 0
        self._num_misplaced = 0

    def run(
        self,
        tasks: Sequence[T],
        rest: Callable[[T, Sequence[Any], bool], Sequence[T]],
        give_up: Callable[[T, str], None],
    ) -> Iterator[list[Any]]:
        """Do the tasks and yield their results, some at a time, in any order.

        Args:
            tasks: in the order in which they are begun.
            rest: what of a task is still to be done, given its results so far; in several smaller tasks where the
                third argument says so, because one part of it may be what kills workers.
            give_up: told of a task, and why, that cannot be made smaller and killed two workers.

        Raises:
            ClusterError: workers die before they do anything, or there is no room for one.
            PosttrainError: what a worker raised, as it was.
        """
        queue = TaskQueue(tasks, rest, give_up)
        try:
            while True:
                self._hand_out(queue)
                if not queue and not any(slot.attempt for slot in self._slots):
                    return
                for reference in self._ready():
                    yield from self._collect(reference, queue)
        finally:
            for slot in [slot for slot in self._slots if slot.attempt]:  # the caller went away, or an error ended it
                self._remove(slot)

    def close(self) -> None:
        """End the workers, and the connection where this pool made it."""
        for slot in list(self._slots):
            self._remove(slot)
        if self._connected_here:
            disconnect()

    def __enter__(self) -> RayPool[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hand_out(self, queue: TaskQueue) -> None:
        for slot in self._slots:
            if slot.state == "idle" and queue:
                slot.attempt, slot.results, slot.state = queue.take(), [], "busy"
                self._ask(slot, slot.handle.begin.remote(slot.attempt.task, TAKE_SECONDS))
        while len(self._slots) < self.num_workers and self._num_free() < len(queue):
            self._start()

    def _num_free(self) -> int:
        return sum(slot.attempt is None for slot in self._slots)

    def _ready(self) -> list[Any]:
        """Return the answers that are there; wait a little where there are none."""
        ready, _ = ray.wait(list(self._waiting), num_returns=1, timeout=5.0)
        waited = time.monotonic() - min(slot.since for slot in self._slots)
        if not ready and waited > PLACE_SECONDS and all(slot.state == "placing" for slot in self._slots):
            need = "an accelerator" if self._device == "cuda" else "a worker process"
            raise ClusterError(
                f"the Ray cluster has had no room for {need} for {waited:.0f} s - see `ray status` for what is taken; "
                "free some, add nodes, or choose --device cpu"
            )
        return ready

    def _collect(self, reference: Any, queue: TaskQueue) -> Iterator[list[Any]]:
        slot = self._waiting.pop(reference)
        try:
            answer = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, PosttrainError):
                raise cause from None
            raise
        except ray.exceptions.RayError as error:
            self._bury(slot, error, queue)
            return
        if slot.state == "placing":
            self._open(slot, answer)
        elif slot.state == "opening":
            slot.state, self._failed_openings = "idle", 0
        else:
            results, finished = answer
            yield from self._accept(slot, results, finished, queue)

    def _open(self, slot: _Slot, node_id: str) -> None:
        # Ray puts a worker elsewhere when it has not heard of a new node yet; trying again spreads them after all.
        if slot.node_id not in (None, node_id) and self._num_misplaced < 2 * self.num_workers:
            self._num_misplaced += 1
            self._remove(slot)
            return
        slot.node_id, slot.state = node_id, "opening"
        machines = {node.address for node in _working_nodes()}
        sharing = math.ceil(self.num_workers / max(len(machines), 1))
        self._ask(slot, slot.handle.open.remote(self._open_work, slot.number, sharing, self._device))

    def _accept(self, slot: _Slot, results: list[Any], finished: bool, queue: TaskQueue) -> Iterator[list[Any]]:
        slot.results.extend(results)
        # Before the caller has them: a caller that is slow leaves no worker without an order.
        if finished:
            slot.attempt, slot.results, slot.state = None, [], "idle"
            self._hand_out(queue)
        else:
            self._ask(slot, slot.handle.take.remote(TAKE_SECONDS))
        if results:
            queue.num_lost_in_a_row = 0
            yield results

    def _bury(self, slot: _Slot, error: Exception, queue: TaskQueue) -> None:
        """Remove a worker that died; what it had not handed back goes back to the queue."""
        reason, attempt = first_line(error), slot.attempt
        by_node = isinstance(error, ray.exceptions.ActorUnavailableError) or slot.node_id not in {
            node.node_id for node in alive_nodes()
        }
        if by_node and slot.node_id is not None:
            self._doubtful_nodes.add(slot.node_id)  # Ray takes seconds to find out that a node is gone
        results = slot.results
        self._remove(slot)
        if attempt is not None:
            queue.put_back(attempt, results, by_node, reason)
            return
        self._failed_openings += 1
        if self._failed_openings > 2 * self.num_workers + 1:
            raise ClusterError(
                f"{self._failed_openings} workers in a row died before they did anything, the last: {reason} - see the "
                "logs of the nodes (/tmp/ray/session_latest/logs); is posttrain installed on every node, and is there "
                "memory for --workers models?"
            )

    def _start(self) -> None:
        node_id = None if self._device == "cuda" else self._least_loaded_node()
        number, self._num_started = self._num_started, self._num_started + 1
        worker_class = self._worker_class
        if node_id is not None:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            strategy = NodeAffinitySchedulingStrategy(node_id, soft=True)
            worker_class = worker_class.options(scheduling_strategy=strategy)
        slot = _Slot(number, worker_class.remote(), node_id)
        self._slots.append(slot)
        self._ask(slot, slot.handle.place.remote())

    def _least_loaded_node(self) -> str | None:
        nodes = [node.node_id for node in _working_nodes()]
        nodes = [name for name in nodes if name not in self._doubtful_nodes] or nodes
        load = Counter(slot.node_id for slot in self._slots)
        return min(nodes, key=lambda name: load[name], default=None)

    def _ask(self, slot: _Slot, reference: Any) -> None:
        self._waiting[reference] = slot

    def _remove(self, slot: _Slot) -> None:
        self._slots.remove(slot)
        self._waiting = {reference: other for reference, other in self._waiting.items() if other is not slot}
        ray.kill(slot.handle)


def _working_nodes() -> list[Node]:
    """List the nodes that take work: a head that offers no CPUs is meant to be left alone."""
    nodes = alive_nodes()
    return [node for node in nodes if node.num_cpus > 0] or nodes

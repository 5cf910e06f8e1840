"""The queue of a pool of workers: what is done again, apart or together, and what is given up."""

from __future__ import annotations

import pytest

from posttrain.core.errors import ClusterError
from posttrain.core.ray_queue import MAX_LOST_IN_A_ROW, TaskQueue, deal


def rest(task, results, apart):
    left = [item for item in task if item not in results]
    return [[item] for item in left] if apart else [left] if left else []


def queue_of(*tasks):
    lost = []
    return TaskQueue(list(tasks), rest, lambda task, reason: lost.append((task, reason))), lost


def test_what_was_handed_back_is_not_done_again():
    queue, lost = queue_of([1, 2, 3], [4])
    queue.put_back(queue.take(), [1, 3], by_node=True, reason="power")
    assert [queue.take().task for _ in range(len(queue))] == [[4], [2]]
    assert lost == []


def test_a_task_that_was_done_when_its_worker_died_is_not_done_again():
    queue, lost = queue_of([1, 2])
    queue.put_back(queue.take(), [1, 2], by_node=False, reason="killed")
    assert len(queue) == 0 and lost == []


def test_the_one_that_kills_is_found_and_given_up_and_the_others_are_kept():
    queue, lost = queue_of([1, 2, 3])
    deaths, done = 0, []
    while queue:
        attempt = queue.take()
        if 2 in attempt.task:
            deaths += 1
            queue.put_back(attempt, [], by_node=False, reason="signal 9")
        else:
            done += attempt.task
    assert sorted(done) == [1, 3]
    assert lost == [([2], "it killed its worker 2 times, the last: signal 9")]
    assert deaths == 3  # once among the others, twice alone


def test_nodes_that_die_are_no_fault_of_the_task_until_there_are_many():
    queue, lost = queue_of([1])
    for _ in range(4):
        assert lost == []
        queue.put_back(queue.take(), [], by_node=True, reason="power")
    queue.put_back(queue.take(), [], by_node=True, reason="power")
    assert [task for task, _ in lost] == [[1]]


def test_where_every_task_kills_its_worker_nothing_is_given_up_in_silence():
    queue, lost = queue_of(*([number] for number in range(MAX_LOST_IN_A_ROW + 1)))
    with pytest.raises(ClusterError, match="6 tasks in a row killed their workers, the last: memory"):
        while queue:
            queue.put_back(queue.take(), [], by_node=False, reason="memory")
    assert len(lost) == MAX_LOST_IN_A_ROW


def test_tasks_get_smaller_and_hold_everything_once():
    tasks = list(deal(range(100), num_workers=2))
    assert [len(task) for task in tasks] == [25, 18, 14, 10, 8, 6, 4, 4, 4, 4, 3]
    assert sum(tasks, []) == list(range(100))
    assert [len(task) for task in deal(range(3000), 1)][:3] == [256, 256, 256]
    assert list(deal([], 3)) == []

"""Packs hold each row once, and what rows of a group begin with once."""

import random

import pytest

from posttrain.core.packing import common_prefix, shared_prefix_packs


def rows_of(pack):
    """Read the rows back from a pack, with their positions."""
    read = {}
    for row, (shared, own) in zip(pack.rows, pack.row_segments, strict=True):
        segments = [pack.segments[index] for index in (shared, own) if index is not None]
        places = [place for s in segments for place in range(s.start, s.start + s.length)]
        assert [pack.positions[place] for place in places] == list(range(len(places)))
        assert pack.segments[own].prefix == (None if shared is None else (segments[0].start, segments[0].length))
        read[row] = [pack.ids[place] for place in places]
    return read


def test_a_pack_worked_out_by_hand():
    (pack,) = shared_prefix_packs([[7, 8, 1], [5, 6], [7, 8, 2, 3]], ["a", "b", "a"], max_tokens=100)
    assert pack.ids == [7, 8, 1, 2, 3, 5, 6]
    assert pack.positions == [0, 1, 2, 2, 3, 0, 1]
    assert pack.rows == [0, 2, 1]
    assert pack.last_places == [2, 4, 6]
    assert [(s.start, s.length, s.prefix) for s in pack.segments] == [
        (0, 2, None),
        (2, 1, (0, 2)),
        (3, 2, (0, 2)),
        (5, 2, None),
    ]


@pytest.mark.parametrize(
    ("rows", "shared"),
    [
        ([[1, 2, 3], [1, 2, 4]], 2),
        ([[1, 2, 3], [1, 2, 3]], 2),  # a row keeps a token of its own, its last
        ([[1, 2], [1, 2, 3]], 1),
        ([[1], [1]], 0),
        ([[1, 2], [3, 2]], 0),
        ([[4, 5, 6]], 2),
    ],
)
def test_what_rows_share_leaves_each_a_token(rows, shared):
    assert common_prefix(rows) == shared


def test_every_row_comes_once_whatever_the_budget():
    chance = random.Random(1)
    for budget in (1, 10, 40, 1000):
        rows, groups = [], []
        for prompt in range(chance.randint(1, 12)):
            begin = [chance.randint(0, 3) for _ in range(chance.randint(0, 12))]
            for _ in range(chance.randint(1, 6)):
                rows.append(begin + [chance.randint(0, 3) for _ in range(chance.randint(1, 9))])
                groups.append(prompt)
        packs = shared_prefix_packs(rows, groups, budget)
        read = {row: ids for pack in packs for row, ids in rows_of(pack).items()}
        assert [read[index] for index in range(len(rows))] == rows
        assert sum(len(pack.rows) for pack in packs) == len(rows)
        assert all(len(pack.ids) <= budget or len(pack.rows) == 1 for pack in packs)


def test_a_group_larger_than_a_pack_is_cut_and_the_longest_rows_come_first():
    rows = [[1, 2, 3, n] for n in range(5)] + [[9] * 20]
    packs = shared_prefix_packs(rows, ["a"] * 5 + ["b"], max_tokens=5)
    assert [pack.rows for pack in packs] == [[5], [0, 1], [2, 3], [4]]
    assert [len(pack.ids) for pack in packs] == [20, 5, 5, 4]


def test_no_budget_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        shared_prefix_packs([[1]], ["a"], 0)

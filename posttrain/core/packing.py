"""Packs: rows in one line without padding, in which the rows of one prompt hold its tokens once.

`[prompt A, its completion 1, …, its completion K, prompt B, …]`; a completion's positions go on where its prompt's end.
posttrain/core/shared_prefix.py runs a model over a pack.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

__all__ = ["Pack", "Segment", "common_prefix", "shared_prefix_packs"]


@dataclass(frozen=True)
class Segment:
    """Describe a run of tokens in a pack that sees itself causally, and all of its prefix.

    Attributes:
        start: place of the first token in the pack.
        length: number of tokens, at least 1.
        prefix: (first place, number of tokens) of the tokens before it in its row, None where there are none.
    """

    start: int
    length: int
    prefix: tuple[int, int] | None = None


@dataclass
class Pack:
    """Hold rows in one line.

    Attributes:
        ids: token ids.
        positions: each token's position in its row.
        segments: in the order of the pack; the segments with one prefix stand behind it, side by side.
        rows: index of each row, as the caller numbers them.
        row_segments: (prefix segment or None, own segment) of each row, as indices into `segments`.
    """

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    row_segments: list[tuple[int | None, int]] = field(default_factory=list)

    @property
    def last_places(self) -> list[int]:
        """Give the place of each row's last token."""
        own = [self.segments[index] for _, index in self.row_segments]
        return [segment.start + segment.length - 1 for segment in own]

    def add(self, prefix: Sequence[int], rows: Sequence[tuple[int, Sequence[int]]]) -> None:
        """Append rows (index, ids) that all begin with `prefix` and go on after it."""
        shared, place = None, None
        if prefix:
            shared, place = len(self.segments), (len(self.ids), len(prefix))
            self._append(prefix, first_position=0, prefix=None)
        for index, ids in rows:
            self.rows.append(index)
            self.row_segments.append((shared, len(self.segments)))
            self._append(ids[len(prefix) :], first_position=len(prefix), prefix=place)

    def _append(self, ids: Sequence[int], first_position: int, prefix: tuple[int, int] | None) -> None:
        self.segments.append(Segment(len(self.ids), len(ids), prefix))
        self.ids += ids
        self.positions += range(first_position, first_position + len(ids))


def common_prefix(ids_list: Sequence[Sequence[int]]) -> int:
    """Count the tokens that all rows begin with, leaving each row at least one token of its own."""
    shortest = min(len(ids) for ids in ids_list)
    alike = (len(set(column)) == 1 for column in zip(*ids_list, strict=False))
    shared = next((place for place, same in enumerate(alike) if not same), shortest)
    return min(shared, shortest - 1)


def shared_prefix_packs(ids_list: Sequence[Sequence[int]], groups: Sequence[Hashable], max_tokens: int) -> list[Pack]:
    """Pack rows so that those of one group hold their common beginning once.

    What is shared is the common beginning of the token ids, whatever the group is made of. A group that is larger than
    a pack is cut, and each part has the beginning once.

    Args:
        ids_list: token ids of each row, at least one.
        groups: what rows that begin alike have in common: their prompt.
        max_tokens: tokens in a pack; a row that is longer alone makes a pack alone.

    Returns:
        Packs that hold each row once, the groups with the longest rows first: a pack that does not fit in memory fails
        at once.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    longest = {group: max(len(ids_list[index]) for index in rows) for group, rows in members.items()}
    packs: list[Pack] = []
    for group in sorted(members, key=lambda group: -longest[group]):
        for prefix, rows in _parts(ids_list, members[group], max_tokens):
            size = len(prefix) + sum(len(ids) - len(prefix) for _, ids in rows)
            if not packs or len(packs[-1].ids) + size > max_tokens:
                packs.append(Pack())
            packs[-1].add(prefix, rows)
    return packs


def _parts(
    ids_list: Sequence[Sequence[int]], members: Sequence[int], max_tokens: int
) -> list[tuple[Sequence[int], list[tuple[int, Sequence[int]]]]]:
    """Cut a group into parts that fit, as (prefix, rows); a row that shares with no other has no prefix."""
    shared = common_prefix([ids_list[index] for index in members])
    parts: list[list[tuple[int, Sequence[int]]]] = []
    size = 0
    for index in members:
        own = len(ids_list[index]) - shared
        if not parts or size + own > max_tokens:
            parts.append([])
            size = shared
        parts[-1].append((index, ids_list[index]))
        size += own
    return [(rows[0][1][: shared if len(rows) > 1 else 0], rows) for rows in parts]

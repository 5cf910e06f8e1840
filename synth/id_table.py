"""Ids in little memory: which ids there are and the place of each, some thirty bytes an id however long it is."""

from __future__ import annotations

import hashlib
from array import array

# Of an id's hash: with 16, two ids of a billion share one with a probability of 1e-21.
DIGEST_BYTES = 16
_FREE = -1


class IdTable:
    """Number ids in the order in which they come, from 0.

    A hash table with open addressing over the ids' digests, since a dict of texts takes 150 bytes an id.
    """

    def __init__(self) -> None:
        self._digests = bytearray()
        self._slots = array("i", [_FREE]) * 1024

    def __len__(self) -> int:
        return len(self._digests) // DIGEST_BYTES

    def add(self, name: str) -> bool:
        """Give an id the next place; return False where it has one."""
        digest = _digest(name)
        slot = self._slot(digest)
        if self._slots[slot] != _FREE:
            return False
        self._slots[slot] = len(self)
        self._digests += digest
        if len(self) * 2 > len(self._slots):
            self._grow()
        return True

    def place(self, name: str) -> int | None:
        """Give the place of an id, None where it was not added."""
        place = self._slots[self._slot(_digest(name))]
        return None if place == _FREE else place

    def _at(self, place: int) -> bytearray:
        return self._digests[place * DIGEST_BYTES : (place + 1) * DIGEST_BYTES]

    def _slot(self, digest: bytes | bytearray) -> int:
        """Find the slot that holds a digest, or the free one where it would go."""
        slots, mask = self._slots, len(self._slots) - 1
        slot = int.from_bytes(digest[:8], "big") & mask
        while (place := slots[slot]) != _FREE and self._at(place) != digest:
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        self._slots = array("i", [_FREE]) * (2 * len(self._slots))
        for place in range(len(self)):
            self._slots[self._slot(self._at(place))] = place


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=DIGEST_BYTES).digest()

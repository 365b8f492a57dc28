"""Remember many short things in few bytes: which of 50,000 keys were seen, and a number for each.

A Python set or dict of 50,000 strings takes some 8 MB, which is more than reading the file takes otherwise.
"""

from array import array
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")
FIRST = 1024  # slots; doubled whenever three quarters are taken


class Places:
    """A number for each 64-bit hash, 16 bytes a slot: an open-addressing table (Knuth, vol. 3, 6.4, linear probing).

    `numbers` is the array's type: "q" for any number, "b" where 0 will do, as in a set (9 bytes a slot). Two keys with the same hash are taken for one. Among 50,000 random ones that happens once in ten thousand million.
    """

    def __init__(self, numbers: str = "q") -> None:
        self.count, self.hashes, self.numbers = 0, array("q", [0]) * FIRST, array(numbers, [0]) * FIRST

    def get(self, found: int) -> int | None:
        """The number of a hash, None where it is not there."""
        slot = self._slot(found)
        return self.numbers[slot] - 1 if self.numbers[slot] else None

    def add(self, found: int, number: int = 0) -> bool:
        """Remember a hash with a number (0 or more), unless it is there already; whether it was new."""
        slot = self._slot(found)
        if self.numbers[slot]:
            return False
        self.hashes[slot], self.numbers[slot] = found, number + 1  # 0 is an empty slot
        self.count += 1
        if 4 * self.count > 3 * len(self.hashes):
            self._grow()
        return True

    def __len__(self) -> int:
        return self.count

    def _slot(self, found: int) -> int:
        """Where a hash is, or would go."""
        mask = len(self.hashes) - 1
        slot = (found ^ found >> 32) & mask
        while self.numbers[slot] and self.hashes[slot] != found:
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        hashes, numbers = self.hashes, self.numbers
        self.hashes = array("q", [0]) * (2 * len(hashes))
        self.numbers = array(numbers.typecode, [0]) * (2 * len(hashes))
        for found, number in zip(hashes, numbers, strict=True):
            if number:
                slot = self._slot(found)
                self.hashes[slot], self.numbers[slot] = found, number


class Mapped(Sequence[T], Generic[T]):
    """What a function makes of each item of a sequence, made anew whenever it is asked for and never kept."""

    def __init__(self, make: Callable[[Any], T], items: Sequence[Any]):
        self.make, self.items = make, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: Any) -> Any:
        return Mapped(self.make, self.items[i]) if isinstance(i, slice) else self.make(self.items[i])

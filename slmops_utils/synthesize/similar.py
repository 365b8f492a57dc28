"""Find near-duplicates among many texts without comparing each with each: MinHash and banding.

Two sets agree in the smallest value of a random hash as often as their Jaccard similarity says (Broder 1997). Texts
whose smallest values agree in whole bands of hashes are compared exactly, so no pair is ever called alike by chance.

What is remembered of a text (its name, its shingles, where its bands lie) is over a kilobyte, and a text can only be
found similar to one that is remembered. So it lies in temporary files, and memory stays as it is however many there are.
"""

import re
import tempfile
import zlib
from array import array
from collections import Counter
from math import comb
from typing import Any

import numpy as np

BANDS, ROWS = 32, 4
MISSED = 2e-6  # how often a pair that is just similar enough may go unseen
SLOT = np.dtype([("tag", "<u4"), ("text", "<u4")])  # of the table of bands; text 0 is an empty slot
READ = 8  # slots at a time
EXPECTED = 512  # texts


def normalise(text: str) -> list[str]:
    """The words of a text in lower case; digits and currency signs count, spacing and punctuation do not."""
    return re.findall(r"[^\W_]+|[£$€]", text.lower())


def shingles(text: str, size: int = 3) -> frozenset[int]:
    """Hashes of all runs of `size` words; of the whole text where it is shorter."""
    words = normalise(text)
    runs = (" ".join(words[i : i + size]) for i in range(max(len(words) - size + 1, 1)))
    return frozenset(zlib.crc32(run.encode()) for run in runs)


def jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    """Shared elements over all elements: 1 for the same set, 0 for nothing in common."""
    return len(a & b) / len(a | b) if a or b else 1.0


def bands_needed(threshold: float) -> int:
    """How many bands two texts must share to be compared: as many as nearly all pairs at the threshold do share.

    A pair of similarity s shares a band with probability s^ROWS. At 0.8 two are needed, and of the pairs of similarity
    0.2 only one in a thousand has them; with one needed it would be one in twenty, too many among 50,000 texts.
    """
    share = threshold**ROWS
    fewer, needed = 0.0, 0
    while fewer <= MISSED and needed < BANDS:
        fewer += comb(BANDS, needed) * share**needed * (1 - share) ** (BANDS - needed)
        needed += 1
    return max(needed - 1, 1)


class Neighbours:
    """Texts that can be asked for the most similar one, if any reaches the threshold.

    `expected` texts fit into the table of bands; with more than that it is written anew, twice as large.
    """

    def __init__(self, threshold: float = 0.8, seed: int = 0, expected: int = EXPECTED):
        draw = np.random.default_rng(seed)
        self.a, self.b = draw.integers(1, 1 << 63, (2, BANDS * ROWS), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self.mix = draw.integers(1, 1 << 63, (ROWS + 1, BANDS), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self.table: Any = None
        self.threshold, self.needed = threshold, bands_needed(threshold)
        # of each text its shingles, then its name
        self.texts = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self.ends, self.sizes = array("q", [0]), array("i")
        self._new_table(max(expected, EXPECTED))

    def add(self, name: str, text: str) -> None:
        if 4 * BANDS * (len(self.sizes) + 1) > 3 * self.slots:
            self._grow()
        found = shingles(text)
        line = array("I", found).tobytes() + name.encode()
        self.texts.seek(self.ends[-1])
        self.texts.write(line)
        self.ends.append(self.ends[-1] + len(line))
        self.sizes.append(len(found))
        self._put(found, len(self.sizes))

    def find(self, text: str) -> tuple[str, float] | None:
        """(name, similarity) of the most similar text, None when none reaches the threshold."""
        wanted = shingles(text)
        shared = Counter(other for band in self._bands(wanted) for other in set(self._look(*band)[1]))
        best = (0.0, 0)
        for other, bands in shared.items():
            size = self.sizes[other - 1]
            if bands >= self.needed and min(size, len(wanted)) >= self.threshold * max(size, len(wanted)):
                best = max(best, (jaccard(wanted, self._read(other)[0]), -other))
        return (self._read(-best[1])[1], best[0]) if best[1] and best[0] >= self.threshold else None

    def _read(self, text: int) -> tuple[frozenset[int], str]:
        """The shingles and the name of a text."""
        start, split = self.ends[text - 1], 4 * self.sizes[text - 1]
        self.texts.seek(start)
        line = self.texts.read(self.ends[text] - start)
        return frozenset(array("I", line[:split])), line[split:].decode()

    def _bands(self, elements: frozenset[int]) -> list[tuple[int, int]]:
        """(place in the table, tag) of each band."""
        values = np.fromiter(elements, dtype=np.uint64, count=len(elements))
        # multiply-shift hashing: products wrap at 2^64, and the high half of what is left is as good as random
        smallest = ((values[:, None] * self.a + self.b) >> np.uint64(32)).min(axis=0)
        hashes = (smallest.reshape(BANDS, ROWS).T * self.mix[:ROWS]).sum(axis=0) + self.mix[ROWS]
        hashes = (hashes ^ hashes >> np.uint64(31)) * self.mix[0, 0]
        places = (hashes >> np.uint64(24)) % np.uint64(self.slots)
        return list(
            zip(places.tolist(), (hashes >> np.uint64(32) ^ hashes & np.uint64(0xFFFFFF)).tolist(), strict=True)
        )

    def _new_table(self, texts: int) -> None:
        self.slots = 2 * BANDS * texts
        self.table = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self.table.truncate(self.slots * SLOT.itemsize)

    def _look(self, place: int, tag: int) -> tuple[int, list[int]]:
        """The first empty slot from `place` on, and the texts on the way there that have this tag."""
        found: list[int] = []
        while True:
            self.table.seek(place * SLOT.itemsize)
            slots = array("I", self.table.read(min(READ, self.slots - place) * SLOT.itemsize))
            for i in range(0, len(slots), 2):
                if not slots[i + 1]:
                    return place + i // 2, found
                if slots[i] == tag:
                    found.append(slots[i + 1])
            place = (place + len(slots) // 2) % self.slots

    def _put(self, elements: frozenset[int], text: int) -> None:
        for place, tag in self._bands(elements):
            empty, _ = self._look(place, tag)
            self.table.seek(empty * SLOT.itemsize)
            self.table.write(array("I", [tag, text]).tobytes())

    def _grow(self) -> None:
        self.table.close()
        self._new_table(2 * len(self.sizes))
        for text in range(1, len(self.sizes) + 1):
            self._put(self._read(text)[0], text)

    def __del__(self) -> None:
        self.texts.close()
        if self.table:
            self.table.close()

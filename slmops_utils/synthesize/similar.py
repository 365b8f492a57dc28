"""Find near-duplicates among many texts without comparing each with each: MinHash and banding.

Two sets agree in the smallest value of a random hash as often as their Jaccard similarity says (Broder 1997). Texts
whose smallest values agree in a whole band of hashes are compared exactly, so no pair is ever called alike by chance.
"""

import re
import zlib

import numpy as np

BANDS, ROWS = (
    32,
    4,
)  # a pair of similarity 0.8 shares no band once in 20 million times, one of 0.2 nineteen times in twenty


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


class Neighbours:
    """Texts that can be asked for the most similar one, if any reaches the threshold."""

    def __init__(self, threshold: float = 0.8, seed: int = 0):
        draw = np.random.default_rng(seed)
        self.a, self.b = draw.integers(1, 1 << 63, (2, BANDS * ROWS), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self.threshold = threshold
        self.names: list[str] = []
        self.sets: list[frozenset[int]] = []
        self.buckets: dict[tuple[int, bytes], list[int]] = {}

    def add(self, name: str, text: str) -> None:
        found = shingles(text)
        for bucket in self._buckets(found):
            self.buckets.setdefault(bucket, []).append(len(self.names))
        self.names.append(name)
        self.sets.append(found)

    def find(self, text: str) -> tuple[str, float] | None:
        """(name, similarity) of the most similar text, None when none reaches the threshold."""
        wanted = shingles(text)
        candidates = {i for bucket in self._buckets(wanted) for i in self.buckets.get(bucket, ())}
        best = max(((jaccard(wanted, self.sets[i]), -i) for i in candidates), default=(0.0, 0))
        return (self.names[-best[1]], best[0]) if candidates and best[0] >= self.threshold else None

    def _buckets(self, elements: frozenset[int]) -> list[tuple[int, bytes]]:
        values = np.fromiter(elements, dtype=np.uint64, count=len(elements))
        # multiply-shift hashing: products wrap at 2^64, and the high half of what is left is as good as random
        smallest = ((values[:, None] * self.a + self.b) >> np.uint64(32)).min(axis=0)
        return [(band, row.tobytes()) for band, row in enumerate(smallest.reshape(BANDS, ROWS))]

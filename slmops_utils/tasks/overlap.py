"""How much of a gold text's wording another text shares."""

import re
from collections.abc import Sequence


def longest_common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """The most words that stand in both, in the same order, with anything between."""
    lengths = [0] * (len(b) + 1)
    for word in a:
        diagonal = 0
        for j, other in enumerate(b, start=1):
            above = lengths[j]
            lengths[j] = diagonal + 1 if word == other else max(above, lengths[j - 1])
            diagonal = above
    return lengths[-1]


def rouge_l(gold: str, text: str) -> float:
    """ROUGE-L's F-measure (Lin 2004): words are runs of a-z and 0-9, without stemming, as in `rouge-score`."""
    wanted, given = (re.findall("[a-z0-9]+", s.lower()) for s in (gold, text))
    shared = longest_common_subsequence(wanted, given)
    return 2 * shared / (len(wanted) + len(given)) if shared else 0.0

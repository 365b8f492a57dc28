"""Draw the next token, each row from random numbers of its own."""

from collections.abc import Sequence
from typing import Any


class Choice:
    """Draw tokens at `sampling.temperature` out of its `top_p` (nucleus sampling, arXiv 1904.09751).

    A row's numbers depend on the seed and its index alone: whoever else runs beside it, and wherever a run is resumed,
    it draws the same.
    """

    def __init__(self, sampling: Any, indices: Sequence[int]):
        import torch

        self.temperature, self.top_p = sampling.temperature, sampling.top_p
        noise = torch.Generator()
        drawn = [
            torch.rand(sampling.max_new_tokens, generator=noise.manual_seed(sampling.seed * 1_000_003 + index))
            for index in indices
        ]
        self.drawn = 1 - torch.stack(drawn)  # (rows, max_new_tokens), each in (0, 1]

    def __call__(self, logits: Any, row: Any, spent: Any) -> Any:
        """logits (n, V), row (n,), spent (n,) -> tokens (n,): the first one whose cumulative probability reaches the
        row's number."""
        self.drawn = self.drawn.to(logits.device)
        probabilities, order = (logits.float() / self.temperature).softmax(-1), None
        if self.top_p < 1:
            probabilities, order = probabilities.sort(descending=True, stable=True)
            before = probabilities.cumsum(-1) - probabilities
            probabilities = probabilities.masked_fill(before >= self.top_p, 0)  # the likeliest always stays
        cumulative = probabilities.cumsum(-1)
        reached = (cumulative < self.drawn[row, spent, None] * cumulative[:, -1:]).sum(-1)
        return reached if order is None else order.gather(-1, reached[:, None])[:, 0]

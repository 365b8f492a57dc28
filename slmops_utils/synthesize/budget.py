"""A cap that holds: what a request may cost at most is set aside before it is sent."""

from collections.abc import Iterable
from dataclasses import dataclass

from .presets import Price


@dataclass
class Bill:
    """What has been spent. Requests whose outcome is unknown count with all they may have cost."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float = 0.0

    def add(self, prompt_tokens: int, completion_tokens: int, dollars: float) -> None:
        self.requests += 1
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self.dollars += dollars

    def __str__(self) -> str:
        return (
            f"${self.dollars:.4f}, {self.prompt_tokens + self.completion_tokens:,} tokens, {self.requests:,} requests"
        )


@dataclass(frozen=True)
class Caps:
    """The most a journal may spend, over all runs that write to it; None is no cap."""

    dollars: float | None = None
    tokens: int | None = None
    requests: int | None = None

    def without(self, bills: Iterable[Bill]) -> "Caps":
        """What these bills, of other journals, leave of it."""
        dollars, tokens, requests = self.dollars, self.tokens, self.requests
        for bill in bills:
            dollars = None if dollars is None else max(dollars - bill.dollars, 0.0)
            tokens = None if tokens is None else max(tokens - bill.prompt_tokens - bill.completion_tokens, 0)
            requests = None if requests is None else max(requests - bill.requests, 0)
        return Caps(dollars, tokens, requests)


def most_tokens(prompt: list[dict[str, str]]) -> int:
    """No tokenizer makes more tokens than there are bytes; 16 more for each message's frame, and 64 for the system
    message that some servers put before a chat that has none."""
    return 64 + sum(len(message["content"].encode()) + 16 for message in prompt)


class Budget:
    """Sets aside, then settles. Not for several threads: one event loop owns it.

    Raises ValueError for a cap in dollars where no price is known.
    """

    def __init__(self, caps: Caps, price: Price | None, bill: Bill):
        if caps.dollars is not None and price is None:
            raise ValueError(
                "a cap in dollars needs a price: state yours with --price INPUT OUTPUT (per million tokens)"
            )
        self.caps, self.price, self.bill = caps, price, bill
        self.held = Bill()
        self.overrun = 0  # tokens a server counted beyond what one request could use

    @property
    def capped(self) -> bool:
        return self.caps != Caps()

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return self.price.cost(prompt_tokens, completion_tokens) if self.price else 0.0

    def reserve(self, prompt_tokens: int, completion_tokens: int) -> str | None:
        """Set aside the most one request may cost; None when that is done, else the cap it would break."""
        dollars = self.cost(prompt_tokens, completion_tokens)
        tokens = prompt_tokens + completion_tokens
        spent, held, caps = self.bill, self.held, self.caps
        in_use = spent.prompt_tokens + spent.completion_tokens + held.prompt_tokens + held.completion_tokens
        if caps.requests is not None and spent.requests + held.requests + 1 > caps.requests:
            return f"{caps.requests:,} requests"
        if caps.tokens is not None and in_use + tokens > caps.tokens:
            return f"{caps.tokens:,} tokens"
        if caps.dollars is not None and spent.dollars + held.dollars + dollars > caps.dollars + 1e-12:
            return f"${caps.dollars:g}"
        held.add(prompt_tokens, completion_tokens, dollars)
        return None

    def settle(self, reserved: tuple[int, int], used: tuple[int, int], sent: bool = True) -> float:
        """Give back what was set aside and book what was used; returns its price in dollars."""
        self.held.requests -= 1
        self.held.prompt_tokens -= reserved[0]
        self.held.completion_tokens -= reserved[1]
        self.held.dollars = max(self.held.dollars - self.cost(*reserved), 0.0)
        if not sent:
            return 0.0
        self.overrun = max(self.overrun, used[0] - reserved[0], used[1] - reserved[1])
        dollars = self.cost(*used)
        self.bill.add(*used, dollars)
        return dollars

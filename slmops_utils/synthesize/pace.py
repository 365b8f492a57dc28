"""As fast as the server allows: its per-minute limits, read from the headers of its answers."""

import email.utils
import math
import re
import time
from datetime import datetime
from typing import Any

LOOK_AGAIN = 0.2  # seconds: an answer on its way may bring better news than the last one did


class Pace:
    """How many requests and tokens are left until the server's count starts again. One event loop owns it."""

    def __init__(self, longest_wait: float):
        self.longest_wait = longest_wait
        self.not_before = 0.0
        self.left: dict[str, int] = {}
        self.until: dict[str, float] = {}
        self.flying = {"requests": 0, "tokens": 0}

    def hold(self, seconds: float) -> None:
        """Let nobody send for so long."""
        self.not_before = max(self.not_before, time.monotonic() + seconds)

    def heed(self, headers: Any) -> None:
        """Note what is left. Requests in flight may not be in the server's count yet, so they are taken off."""
        for kind in ("requests", "tokens"):
            for left, reset in ((f"x-ratelimit-remaining-{kind}", f"x-ratelimit-reset-{kind}"),
                                (f"anthropic-ratelimit-{kind}-remaining", f"anthropic-ratelimit-{kind}-reset")):  # fmt: skip
                if (count := headers.get(left)) is None:
                    continue
                seconds = parse_wait(headers.get(reset, ""))
                if re.fullmatch(r"\d{1,12}", count, re.ASCII) and seconds is not None:
                    self.left[kind] = int(count) - self.flying[kind]
                    self.until[kind] = time.monotonic() + min(seconds, self.longest_wait)

    def wait(self, tokens: int) -> float:
        """Seconds until one more request of so many tokens may be sent, as far as is known now."""
        now = time.monotonic()
        wait = self.not_before - now
        for kind, needed in (("requests", 1), ("tokens", tokens)):
            if self.left.get(kind, needed) < needed:
                wait = max(wait, self.until[kind] - now)
        return max(wait, 0.0)

    def leave(self, tokens: int) -> None:
        """A request of so many tokens is sent."""
        for kind, needed in (("requests", 1), ("tokens", tokens)):
            self.flying[kind] += needed
            if kind in self.left:
                self.left[kind] -= needed
                if time.monotonic() >= self.until[kind]:
                    del self.left[kind], self.until[kind]  # a new minute: unknown until the next answer

    def back(self, tokens: int) -> None:
        """Its outcome is known."""
        self.flying["requests"] -= 1
        self.flying["tokens"] -= tokens


def parse_wait(text: str) -> float | None:
    """Seconds in "1.5", "6m0s", "20ms" or until an ISO or HTTP date; None when it is none of these."""
    text = text.strip()
    try:
        seconds = float(text)
        return max(seconds, 0.0) if math.isfinite(seconds) else None  # float reads "nan", and no wait is that long
    except ValueError:
        pass
    if re.fullmatch(r"(\d+(\.\d+)?(ms|[hms]))+", text):
        scale = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
        return sum(float(n) * scale[unit] for n, _, unit in re.findall(r"(\d+(\.\d+)?)(ms|[hms])", text))
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        try:
            when = email.utils.parsedate_to_datetime(text)
        except (ValueError, TypeError):
            return None
    return max(when.timestamp() - time.time(), 0.0)


def retry_after(headers: Any) -> float | None:
    """What the server asks to wait, in seconds."""
    if "retry-after-ms" in headers and (wait := parse_wait(headers["retry-after-ms"])) is not None:
        return wait / 1000
    return parse_wait(headers.get("retry-after", "")) if "retry-after" in headers else None

"""Ask a teacher behind an OpenAI-compatible API: many requests at once, none lost, none over budget.

Every attempt is journalled before it is sent and again when its outcome is known, so that a killed run knows what it
may have been billed for. Only a whole, non-empty answer becomes an entry that a training row can be made of.
"""

import asyncio
import email.utils
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .answer import Prompt, Sampling
from .budget import Bill, Budget, BudgetSpent, Caps, most_tokens
from .journal import Journal
from .presets import Endpoint

MOST_BYTES = 4_000_000  # no honest answer is longer
ENOUGH_TO_JUDGE = 20  # finished rows before the success ratio means anything
RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}
FATAL = {401: "the key was refused", 403: "the key may not do this", 404: "no such model or address",
         402: "the account has no credit"}  # fmt: skip


@dataclass(frozen=True)
class Network:
    """How to ask. `seconds` is the most one attempt may take, however slowly its bytes trickle in."""

    concurrency: int = 8
    attempts: int = 5
    seconds: float = 120.0
    first_wait: float = 1.0  # doubled after each failure, with a random half taken off
    longest_wait: float = 60.0
    success_ratio: float = 0.7


@dataclass
class Tally:
    """How a run went. `stopped` says why it ended early, None when it did not."""

    bill: Bill
    answered: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    stopped: str | None = None


class _Failure(Exception):
    """One attempt failed. `billed` is False when the server surely charged nothing."""

    def __init__(self, reason: str, again: bool = True, wait: float | None = None, billed: bool = True):
        super().__init__(reason)
        self.reason, self.again, self.wait, self.billed = reason, again, wait, billed


class _Stop(Exception):
    """The whole run must end; the message says why."""


def spent_before(book: Journal, cost: Callable[[int, int], float]) -> Bill:
    """What the runs that wrote this journal spent; attempts without an outcome count with all they may have cost."""
    bill, sent = Bill(), {}
    for key, entry in book.entries.items():
        if "sent" in entry:
            sent[key] = entry["sent"]
    for entry in book.entries.values():
        if "settles" in entry:
            sent.pop(entry["settles"], None)
            bill.add(entry["prompt_tokens"], entry["completion_tokens"], entry["dollars"])
    for prompt_tokens, completion_tokens in sent.values():
        bill.add(prompt_tokens, completion_tokens, cost(prompt_tokens, completion_tokens))
    return bill


def ask_endpoint(
    endpoint: Endpoint,
    prompts: Sequence[Prompt],
    keys: Sequence[str],
    book: Journal,
    sampling: Sampling,
    caps: Caps | None = None,
    network: Network | None = None,
    on_progress: Callable[[int, Bill], None] = lambda done, bill: None,
) -> Tally:
    """Ask every prompt whose key the journal does not hold, and journal the answers under their keys.

    Returns when all are answered or given up, or the run was stopped (budget, success ratio, a refused key, a changed
    model): `tally.stopped` has the reason, and the same call goes on later. Raises EndpointError when there is no key
    and ValueError for a cap in dollars without a price. Runs its own event loop in a thread, as a notebook has one
    already.
    """
    run = _Run(endpoint, prompts, keys, book, sampling, caps or Caps(), network or Network())
    failed: list[BaseException] = []

    def loop() -> None:
        try:
            asyncio.run(run.all(on_progress))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=loop, name="endpoint", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.2)
    except KeyboardInterrupt:
        run.interrupt()
        thread.join()
        raise
    if failed:
        raise failed[0]
    return run.tally


class _Run:
    """The state of one run, all of it touched by the event loop only."""

    def __init__(self, endpoint, prompts, keys, book, sampling, caps, network):
        self.endpoint, self.prompts, self.keys, self.book = endpoint, prompts, keys, book
        self.sampling, self.network = sampling, network
        price = endpoint.price
        self.budget = Budget(caps, price, spent_before(book, price.cost if price else lambda *_: 0.0))
        self.tally = Tally(self.budget.bill)
        self.todo = [i for i, key in enumerate(keys) if key not in book.entries]
        self.number = len(book.entries)
        served = [e["served_model"] for e in book.entries.values() if e.get("served_model")]
        self.served: str | None = served[-1] if served else None
        self.not_before = 0.0
        self.task: asyncio.Task | None = None
        self.unwritten: list[dict[str, Any]] = []

    def interrupt(self) -> None:
        if self.task:
            self.task.get_loop().call_soon_threadsafe(self.task.cancel)

    async def all(self, on_progress: Callable[[int, Bill], None]) -> None:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        self.task, self.settled = asyncio.current_task(), asyncio.Condition()
        http = DefaultAsyncHttpxClient(
            transport=_capped_transport(self.network.concurrency), follow_redirects=False, timeout=self.network.seconds
        )
        client = AsyncOpenAI(
            api_key=self.endpoint.key(), base_url=self.endpoint.base_url, max_retries=0, http_client=http
        )
        rows: Iterator[int] = iter(self.todo)
        writer = asyncio.create_task(self._write_now_and_then(on_progress))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.network.concurrency, len(self.todo))):
                    group.create_task(self._work(client, rows))
        except* (_Stop, BudgetSpent) as stops:
            self.tally.stopped = str(stops.exceptions[0])
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            self._write(on_progress)
            await client.close()

    async def _work(self, client: Any, rows: Iterator[int]) -> None:
        for index in rows:  # one iterator for all workers
            for attempt in range(1, self.network.attempts + 1):
                try:
                    await self._attempt(client, index)
                    self.tally.answered += 1
                    break
                except _Failure as failure:
                    if not failure.again or attempt == self.network.attempts:
                        self.tally.failures[failure.reason] += 1
                        break
                    wait = min(self.network.first_wait * 2 ** (attempt - 1), self.network.longest_wait)
                    await asyncio.sleep(failure.wait if failure.wait is not None else wait * random.uniform(0.5, 1.0))
            self._judge()

    def _judge(self) -> None:
        failed = sum(self.tally.failures.values())
        done = failed + self.tally.answered
        if done >= min(ENOUGH_TO_JUDGE, len(self.todo)) and self.tally.answered < self.network.success_ratio * done:
            reason, count = self.tally.failures.most_common(1)[0]
            raise _Stop(
                f"only {self.tally.answered} of {done} calls succeeded, less than {self.network.success_ratio:.0%}; "
                f"most often ({count}): {reason}"
            )

    async def _attempt(self, client: Any, index: int) -> None:
        """One request: set aside, journal, send, settle, journal. Raises _Failure or _Stop."""
        while (wait := self.not_before - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        prompt, key = self.prompts[index], self.keys[index]
        reserved = (most_tokens(prompt), self.sampling.max_new_tokens)
        await self._reserve(reserved)
        self.number += 1
        sent = f"{key}#{self.number}"
        self.book.append([{"key": sent, "sent": reserved}], sync=False)
        entry: dict[str, Any] = {"settles": sent}
        used, started = reserved, time.perf_counter()
        try:
            answer, used = await self._send(client, prompt)
            entry |= {"key": key, **answer}
        except _Failure as failure:
            used = used if failure.billed else (0, 0)
            entry |= {"key": f"{sent}!", "failure": failure.reason}
            raise
        except _Stop as stop:
            used = (0, 0)
            entry |= {"key": f"{sent}!", "failure": str(stop)}
            raise
        except BaseException as error:  # cancelled in flight: the outcome is unknown
            entry |= {"key": f"{sent}!", "failure": type(error).__name__}
            raise
        finally:
            dollars = self.budget.settle(reserved, used)
            entry |= {"prompt_tokens": used[0], "completion_tokens": used[1], "dollars": dollars}
            self.unwritten.append(entry | {"seconds": round(time.perf_counter() - started, 3)})
            async with self.settled:
                self.settled.notify_all()

    async def _reserve(self, reserved: tuple[int, int]) -> None:
        async with self.settled:
            while cap := self.budget.reserve(*reserved):
                if self.budget.held.requests == 0:  # nobody in flight could give anything back
                    raise BudgetSpent(f"the cap of {cap} would be broken; spent so far: {self.budget.bill}")
                await self.settled.wait()

    async def _send(self, client: Any, prompt: Prompt) -> tuple[dict[str, Any], tuple[int, int]]:
        import openai

        options: dict[str, Any] = {"max_tokens": self.sampling.max_new_tokens, "temperature": self.sampling.temperature}
        if self.sampling.temperature > 0:
            options["top_p"] = self.sampling.top_p
        if self.endpoint.local:
            options["seed"] = self.sampling.seed
        try:
            async with asyncio.timeout(self.network.seconds):
                raw = await client.chat.completions.with_raw_response.create(
                    model=self.endpoint.model, messages=prompt, **options
                )
        except (TimeoutError, openai.APITimeoutError):
            raise _Failure(f"no whole answer in {self.network.seconds:g} s") from None
        except openai.APIStatusError as error:
            raise self._status(error) from None
        except openai.APIConnectionError as error:
            refused = "refused" in str(error.__cause__).lower() or "All connection attempts failed" in str(
                error.__cause__
            )
            reason = "connection refused" if refused else f"connection broken ({type(error.__cause__).__name__})"
            raise _Failure(reason, billed=not refused) from None
        except (openai.OpenAIError, ValueError) as error:
            raise _Failure(f"not a usable answer ({type(error).__name__})") from None
        self._heed(raw.headers)
        try:
            return self._read(raw.parse())
        except (ValueError, TypeError, AttributeError, IndexError, openai.OpenAIError) as error:
            raise _Failure(f"not a usable answer ({type(error).__name__})") from None

    def _read(self, completion: Any) -> tuple[dict[str, Any], tuple[int, int]]:
        choice = completion.choices[0]
        text, reason = choice.message.content or "", choice.finish_reason or "unknown"
        usage = completion.usage
        used = (usage.prompt_tokens, usage.completion_tokens) if usage else None
        if used is None or not all(isinstance(count, int) and count >= 0 for count in used):
            used = (sum(len(text) for text in (text,)) // 2, self.sampling.max_new_tokens)
        served = str(completion.model or "")
        if self.served and served and served != self.served:
            raise _Stop(
                f"the server changed its model from {self.served} to {served}: data of two teachers would be mixed"
            )
        self.served = self.served or served
        if reason == "content_filter":
            raise _Failure("content_filter", again=False)
        if not isinstance(text, str) or not text.strip():
            raise _Failure("empty answer")
        answer = {"text": text.strip(), "finish_reason": reason, "served_model": served}
        return answer, used

    def _status(self, error: Any) -> Exception:
        """What an HTTP status means for the run; the server's own words may hold the key, so they are not repeated."""
        status = error.status_code
        self._heed(error.response.headers)
        if status in FATAL:
            return _Stop(
                f"HTTP {status} from {self.endpoint.base_url}: {FATAL[status]} (model {self.endpoint.model!r}, key from "
                f"{self.endpoint.key_variable})"
            )
        if 300 <= status < 400:
            return _Stop(
                f"HTTP {status}: {self.endpoint.base_url} redirects elsewhere; a key is not sent on. Give the final address"
            )
        code = str(getattr(error, "code", "") or "")
        if code == "content_filter":
            return _Failure("content_filter", again=False, billed=False)
        if status in RETRIED:
            wait = retry_after(error.response.headers)
            if wait is not None:
                wait = min(wait, 10 * self.network.longest_wait)
                self.not_before = max(self.not_before, time.monotonic() + wait)  # every worker waits
            return _Failure(f"HTTP {status}", wait=wait, billed=False)
        return _Failure(f"HTTP {status}", again=False, billed=False)

    def _heed(self, headers: Any) -> None:
        """Where the server says that no request or token is left in this minute, wait until it says there is."""
        for kind in ("requests", "tokens"):
            for left, reset in ((f"x-ratelimit-remaining-{kind}", f"x-ratelimit-reset-{kind}"),
                                (f"anthropic-ratelimit-{kind}-remaining", f"anthropic-ratelimit-{kind}-reset")):  # fmt: skip
                if headers.get(left, "").strip() == "0" and (seconds := parse_wait(headers.get(reset, ""))) is not None:
                    self.not_before = max(self.not_before, time.monotonic() + min(seconds, self.network.longest_wait))

    async def _write_now_and_then(self, on_progress: Callable[[int, Bill], None]) -> None:
        while True:
            await asyncio.sleep(0.25)
            self._write(on_progress)

    def _write(self, on_progress: Callable[[int, Bill], None]) -> None:
        batch, self.unwritten = self.unwritten, []
        if batch:
            self.book.append(batch)
        on_progress(sum("text" in entry for entry in batch), self.budget.bill)


def parse_wait(text: str) -> float | None:
    """Seconds in "1.5", "6m0s", "20ms" or until an ISO or HTTP date; None when it is none of these."""
    import re
    from datetime import datetime

    text = text.strip()
    try:
        return max(float(text), 0.0)
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


def _capped_transport(concurrency: int) -> Any:
    """A transport that reads at most MOST_BYTES of an answer."""
    import httpx2 as httpx

    class CappedStream(httpx.AsyncByteStream):
        def __init__(self, stream: Any):
            self.stream = stream

        async def __aiter__(self):
            total = 0
            async for part in self.stream:
                total += len(part)
                if total > MOST_BYTES:
                    raise httpx.ReadError(f"the answer is longer than {MOST_BYTES:,} bytes")
                yield part

        async def aclose(self) -> None:
            await self.stream.aclose()

    class Capped(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: Any) -> Any:
            response = await super().handle_async_request(request)
            response.stream = CappedStream(response.stream)
            return response

    return Capped(limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency))

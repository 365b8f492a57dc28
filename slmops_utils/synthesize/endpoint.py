"""Ask a teacher behind an OpenAI-compatible API: many requests at once, none lost, none over budget.

Every attempt is journalled before it is sent and again when its outcome is known, so that a killed run knows what it
may have been billed for. Only a whole, non-empty answer becomes an entry that a training row can be made of.
"""

import asyncio
import contextlib
import random
import threading
import time
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .answer import Prompt, Sampling
from .budget import Bill, Budget, Caps, most_tokens
from .journal import Journal
from .pace import LOOK_AGAIN, Pace, retry_after
from .presets import Endpoint
from .redact import redacted

MOST_BYTES = 4_000_000  # no honest answer is longer
TOO_LONG = f"the answer is longer than {MOST_BYTES:,} bytes"
SYNC_EVERY = 0.25  # seconds between waits for the disk
MOST_THROTTLED = 20  # times one row is told to slow down before it is given up
ENOUGH_TO_JUDGE = 20  # finished rows before the success ratio means anything
RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}
FATAL = {401: "the key was refused", 403: "the key may not do this", 404: "no such model or address",
         402: "the account has no credit"}  # fmt: skip


@dataclass(frozen=True)
class Network:
    """How to ask. `seconds` is the most one attempt may take, however slowly its bytes trickle in.

    An empty answer is a failure, as nothing can be learnt from it; with `keep_empty` it counts, as it does in a test.
    """

    concurrency: int = 8
    attempts: int = 5
    seconds: float = 120.0
    first_wait: float = 1.0  # doubled after each failure, with a random half taken off
    longest_wait: float = 60.0
    success_ratio: float = 0.7
    keep_empty: bool = False


@dataclass
class Tally:
    """How a run went. `stopped` says why it ended early, None when it did not."""

    bill: Bill
    answered: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    stopped: str | None = None


class _Failure(Exception):
    """One attempt failed. `used` are the tokens it was billed for, None where that is unknown."""

    def __init__(
        self,
        reason: str,
        again: bool = True,
        wait: float | None = None,
        used: tuple[int, int] | None = None,
        stops: bool = False,
        throttled: bool = False,
    ):
        super().__init__(reason)
        self.reason, self.again, self.wait, self.used = reason, again, wait, used
        self.stops, self.throttled = stops, throttled  # ends the whole run; was only told to slow down


def spent_before(book: Journal, endpoint: Endpoint) -> tuple[Bill, str | None]:
    """What the runs that wrote this journal spent, whichever teacher they asked, and the model that answered last for
    this one; None where that is not known, as in an older journal, whose lines name no teacher.

    Attempts without an outcome count with all they may have cost: the server may have billed them.
    """
    bill, sent, served = Bill(), {}, None
    cost: Callable[[int, int], float] = endpoint.price.cost if endpoint.price else lambda *_: 0.0
    for key, entry in book.items():
        if "sent" in entry:
            sent[key] = entry["sent"]
        elif "settles" in entry:
            sent.pop(entry["settles"], None)
            bill.add(entry["prompt_tokens"], entry["completion_tokens"], entry["dollars"])
            if entry.get("teacher") == endpoint.name:
                served = entry.get("served_model") or served
    for prompt_tokens, completion_tokens in sent.values():
        bill.add(prompt_tokens, completion_tokens, cost(prompt_tokens, completion_tokens))
    return bill, served


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
    finished = threading.Event()  # Thread.join, once interrupted, takes the thread for dead

    def loop() -> None:
        try:
            with redacted(endpoint.key):
                asyncio.run(run.all(on_progress))
        except BaseException as error:
            failed.append(error)
        finally:
            finished.set()

    thread = threading.Thread(target=loop, name="endpoint", daemon=True)
    thread.start()
    try:
        while not finished.wait(0.2):
            pass
    except KeyboardInterrupt:
        run.interrupt()
        finished.wait()
        raise
    if failed:
        raise failed[0]
    return run.tally


class _Run:
    """The state of one run, all of it touched by the event loop only."""

    def __init__(self, endpoint, prompts, keys, book, sampling, caps, network):
        self.endpoint, self.prompts, self.keys, self.book = endpoint, prompts, keys, book
        self.sampling, self.network = sampling, network
        bill, self.served = spent_before(book, endpoint)
        self.budget, self.tally = Budget(caps, endpoint.price, bill), Tally(bill)
        self.todo = array("q", (i for i, key in enumerate(keys) if key not in book))
        self.number = len(book)  # no earlier attempt has a higher one: each wrote a line of its own
        self.pace = Pace(network.longest_wait)
        self.task: asyncio.Task | None = None
        self.waiting = 0  # workers that wait for room under a cap
        self.new = 0  # answers since progress was last shown

    def interrupt(self) -> None:
        if self.task:
            self.task.get_loop().call_soon_threadsafe(self.task.cancel)

    def stop(self, reason: str) -> None:
        """Send nothing more. What is in flight is paid for, so it is waited for and kept."""
        self.tally.stopped = self.tally.stopped or reason
        self.stopping.set()
        self.first_is_back.set()

    async def sleep(self, seconds: float) -> None:
        """Wait, but not longer than the run lasts."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)

    async def all(self, on_progress: Callable[[int, Bill], None]) -> None:
        self.task, self.settled = asyncio.current_task(), asyncio.Condition()
        self.stopping, self.first_is_back = asyncio.Event(), asyncio.Event()
        client = make_client(self.endpoint, self.network)
        rows: Iterator[int] = iter(self.todo)
        writer = asyncio.create_task(self._sync_now_and_then(on_progress))
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(min(self.network.concurrency, len(self.todo))):
                    group.create_task(self._work(client, rows, first=number == 0))
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            self._sync(on_progress)
            await client.close()

    async def _work(self, client: Any, rows: Iterator[int], first: bool) -> None:
        if not first:
            # one request goes ahead: a wrong key or address is then one failed call, and the limits are known
            await self.first_is_back.wait()
        while not self.stopping.is_set() and (index := next(rows, None)) is not None:
            await self._row(client, index)
            self._judge()

    async def _row(self, client: Any, index: int) -> None:
        """Ask one row until it is answered or given up."""
        failed = throttled = 0
        while not self.stopping.is_set():
            try:
                if await self._attempt(client, index):
                    self.tally.answered += 1
                return
            except _Failure as failure:
                throttled += failure.throttled
                failed += not failure.throttled
                if failure.stops:
                    self.stop(failure.reason)
                if not failure.again or failed >= self.network.attempts or throttled >= MOST_THROTTLED:
                    self.tally.failures[failure.reason] += 1
                    return
                wait = min(self.network.first_wait * 2 ** (failed + throttled - 1), self.network.longest_wait)
                wait = failure.wait if failure.wait is not None else wait
                if failure.throttled:
                    self.pace.hold(wait)  # the others would only be told the same
                # half of a back-off is random, or all that failed together would come back together
                await self.sleep(wait * random.uniform(1.0, 1.2) if failure.wait else wait * random.uniform(0.5, 1.0))

    def _judge(self) -> None:
        failed = sum(self.tally.failures.values())
        done = failed + self.tally.answered
        if done >= min(ENOUGH_TO_JUDGE, len(self.todo)) and self.tally.answered < self.network.success_ratio * done:
            reason, count = self.tally.failures.most_common(1)[0]
            self.stop(
                f"only {self.tally.answered} of {done} calls succeeded, less than {self.network.success_ratio:.0%}; "
                f"most often ({count}): {reason}"
            )

    async def _attempt(self, client: Any, index: int) -> bool:
        """One request: set aside, journal, send, settle, journal. Raises _Failure; False when the run stopped first."""
        prompt, key = self.prompts[index], self.keys[index]
        reserved = (most_tokens(prompt), self.sampling.max_new_tokens)
        if not await self._reserve(reserved):
            return False
        self.number += 1
        sent = f"{key}#{self.number}"
        entry: dict[str, Any] = {"key": f"{sent}!", "settles": sent, "teacher": self.endpoint.name}
        used, started = (0, 0), time.perf_counter()
        try:
            expected = reserved[0] // 4 + reserved[1]  # four bytes a token: what a server's own limit counts
            while (wait := self.pace.wait(expected)) > 0:
                await self.sleep(min(wait, LOOK_AGAIN))
                if self.stopping.is_set():
                    return False
            self.book.append([{"key": sent, "sent": reserved}], sync=False)
            used, started = reserved, time.perf_counter()  # until the outcome is known
            self.pace.leave(expected)
            try:
                answer, known = await self._send(client, prompt, key)
            finally:
                self.pace.back(expected)
                self.first_is_back.set()
            used = known or reserved
            entry |= {"key": key, **answer}
            return True
        except _Failure as failure:
            used = reserved if failure.used is None else failure.used
            entry["failure"] = failure.reason
            raise
        except BaseException as error:  # cancelled in flight: the outcome is unknown
            entry["failure"] = type(error).__name__
            raise
        finally:
            dollars = self.budget.settle(reserved, used, sent in self.book)
            if sent in self.book:
                entry |= {"prompt_tokens": used[0], "completion_tokens": used[1], "dollars": dollars}
                self.book.append([entry | {"seconds": round(time.perf_counter() - started, 3)}], sync=False)
                self.new += "text" in entry
            if self.budget.overrun and self.budget.capped:
                self.stop(
                    f"the server counted {self.budget.overrun} tokens more than one request may use, so no cap can "
                    f"hold; spent so far: {self.budget.bill}"
                )
            if self.waiting:
                async with self.settled:
                    self.settled.notify_all()

    async def _reserve(self, reserved: tuple[int, int]) -> bool:
        """Set aside what a request may cost; False when there is no room left, or the run stopped."""
        while cap := self.budget.reserve(*reserved):
            if self.budget.held.requests == 0:  # nobody in flight could give anything back
                self.stop(f"the cap of {cap} would be broken; spent so far: {self.budget.bill}")
            if self.stopping.is_set():
                return False
            self.waiting += 1
            async with self.settled:
                await self.settled.wait()
            self.waiting -= 1
        return True

    async def _send(self, client: Any, prompt: Prompt, key: str) -> tuple[dict[str, Any], tuple[int, int] | None]:
        """The answer, and the tokens the server says it used. Raises _Failure."""
        import openai

        options: dict[str, Any] = {"max_tokens": self.sampling.max_new_tokens, "temperature": self.sampling.temperature}
        # some APIs refuse top_p beside temperature; one's own server may have a default below 1
        if self.sampling.temperature > 0 and (self.sampling.top_p < 1 or self.endpoint.local):
            options["top_p"] = self.sampling.top_p
        if self.endpoint.local:
            # samples of one prompt differ in their key only, and have to be drawn apart
            drawn = zlib.crc32(key.encode()) if self.sampling.temperature > 0 else 0
            options["seed"] = (self.sampling.seed + drawn) % 2**31
        if self.sampling.top_logprobs:
            options |= {"logprobs": True, "top_logprobs": self.sampling.top_logprobs}
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
            raise _connection(error.__cause__) from None
        except (openai.OpenAIError, ValueError, RecursionError) as error:
            raise _Failure(f"not a usable answer ({type(error).__name__})") from None
        self.pace.heed(raw.headers)
        try:
            completion = raw.parse()
            used = _used(completion.usage)
            return self._read(completion, used), used
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError, openai.OpenAIError) as error:
            raise _Failure(f"not a usable answer ({type(error).__name__})") from None

    def _read(self, completion: Any, used: tuple[int, int] | None) -> dict[str, Any]:
        answer: dict[str, Any]
        choice = completion.choices[0]
        text, reason, served = choice.message.content, choice.finish_reason, completion.model
        if reason == "content_filter":
            raise _Failure("content_filter", again=False, used=used)
        text = text or ""
        if not text.strip() and not self.network.keep_empty:
            raise _Failure("empty answer", used=used)
        answer = {"text": text.strip(), "finish_reason": str(reason)[:40], "served_model": str(served or "")[:200]}
        "".join(answer.values()).encode()  # half of a surrogate pair could not be written down
        served = answer["served_model"]
        if self.served and served and served != self.served:
            raise _Failure(
                f"the server changed its model from {self.served!r} to {served!r}, and the data of two teachers would "
                "be mixed: name the exact version, or give another --out",
                again=False, used=used, stops=True,
            )  # fmt: skip
        self.served = self.served or served
        if self.sampling.top_logprobs:
            answer["logprobs"] = _logprobs(choice.logprobs, used)
        return answer

    def _status(self, error: Any) -> _Failure:
        """What an HTTP status means for the run; the server's own words may hold the key, so they are not repeated."""
        status, headers, where = error.status_code, error.response.headers, self.endpoint.base_url
        self.pace.heed(headers)
        if status in FATAL:
            return _Failure(
                f"HTTP {status} from {where}: {FATAL[status]} (model {self.endpoint.model!r}, key from the environment "
                f"variable {self.endpoint.key_variable})",
                again=False, used=(0, 0), stops=True,
            )  # fmt: skip
        if 300 <= status < 400:
            return _Failure(
                f"HTTP {status}: {where} redirects elsewhere, and a key is not sent on. Give the final address",
                again=False, used=(0, 0), stops=True,
            )  # fmt: skip
        if getattr(error, "code", "") == "content_filter":
            return _Failure("content_filter", again=False, used=(0, 0))
        if status not in RETRIED:
            return _Failure(f"HTTP {status}", again=False, used=(0, 0))
        wait = retry_after(headers)
        wait = None if wait is None else min(wait, 10 * self.network.longest_wait)
        return _Failure(f"HTTP {status}", wait=wait, used=(0, 0), throttled=status == 429)

    async def _sync_now_and_then(self, on_progress: Callable[[int, Bill], None]) -> None:
        while True:
            await asyncio.sleep(SYNC_EVERY)
            self._sync(on_progress)

    def _sync(self, on_progress: Callable[[int, Bill], None]) -> None:
        self.book.sync()
        new, self.new = self.new, 0
        on_progress(new, self.budget.bill)


def _used(usage: Any) -> tuple[int, int] | None:
    """(prompt, completion) tokens as the server counts them; None when it does not say, or says nonsense."""
    used = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
    return used if all(type(count) is int and 0 <= count <= 10**9 for count in used) else None  # type: ignore


def _logprobs(given: Any, used: tuple[int, int] | None) -> list[list[Any]]:
    """For each token of an answer [itself, the likeliest tokens], each as [id or None, its bytes in hex, log-probability].

    Raises _Failure, which ends the run, where the server does not say: no other row would fare better.
    """
    places = getattr(given, "content", None)
    if not places or not all(place.top_logprobs for place in places):
        raise _Failure("the server gives no top_logprobs: ask without --top-logprobs", False, used=used, stops=True)

    def short(token: Any) -> list[Any]:
        raw = bytes(token.bytes if token.bytes is not None else token.token.encode())
        return [getattr(token, "id", None), raw.hex(), round(float(token.logprob), 5)]

    return [[short(place), [short(token) for token in place.top_logprobs]] for place in places]


def _connection(cause: BaseException | None) -> _Failure:
    if cause is not None and ("refused" in str(cause).lower() or "All connection attempts failed" in str(cause)):
        return _Failure("connection refused", used=(0, 0))
    if TOO_LONG in str(cause):
        return _Failure(TOO_LONG)
    return _Failure(f"connection broken ({type(cause).__name__})")


def make_client(endpoint: Endpoint, network: Network) -> Any:
    """The SDK's client without its own retries and redirects, reading at most MOST_BYTES of an answer."""
    import httpx2 as httpx
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Omit

    class Capped(httpx.AsyncByteStream):
        def __init__(self, stream: Any):
            self.stream = stream

        async def __aiter__(self):
            total = 0
            async for part in self.stream:
                total += len(part)
                if total > MOST_BYTES:
                    raise httpx.ReadError(TOO_LONG)
                yield part

        async def aclose(self) -> None:
            await self.stream.aclose()

    async def cap(response: Any) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise httpx.ReadError("compressed, though that was not asked for")  # a few bytes may unpack to gigabytes
        response.stream = Capped(response.stream)

    http = DefaultAsyncHttpxClient(
        follow_redirects=False, timeout=network.seconds, event_hooks={"response": [cap]},
        headers={"Accept-Encoding": "identity"}, trust_env=not endpoint.local,
        limits=httpx.Limits(max_connections=network.concurrency, max_keepalive_connections=network.concurrency),
    )  # fmt: skip
    # the SDK would send what the environment says of an OpenAI account to any provider
    own: Any = (
        {} if endpoint.key_variable == "OPENAI_API_KEY" else {"OpenAI-Organization": Omit(), "OpenAI-Project": Omit()}
    )
    return AsyncOpenAI(
        api_key=endpoint.key(), base_url=endpoint.base_url, max_retries=0, http_client=http, default_headers=own
    )

"""A loopback server that speaks /v1/chat/completions and misbehaves on demand. `python server.py` runs one on its own.

`script(number, body)` decides what happens to each request: a text is a good answer, a Reply anything else.
"""

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Reply:
    """What the server does: the bytes it sends, how slowly, and how it leaves."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    after: float = 0.0  # seconds before the first byte
    send: float = 1.0  # the share of the body that is sent before the connection is dropped
    reset: bool = False  # drop it with a TCP reset, before any byte
    trickle: float = 0.0  # seconds between single bytes


def completion(text: Any = "neutral", model: str = "teacher-1", **changes: Any) -> Reply:
    """A good answer, unless `changes` spoil it: finish_reason, usage, choices."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    choice["finish_reason"] = changes.pop("finish_reason", "stop")
    usage = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
    body = {"id": "c1", "object": "chat.completion", "created": 1, "model": model, "choices": [choice], "usage": usage}
    return Reply(json.dumps(body | changes).encode())


def problem(status: int, headers: dict[str, str] | None = None, code: str | None = None) -> Reply:
    """An error as an API sends it. Some repeat the key in their message."""
    told = {"error": {"message": "you sent the key sk-planted-7f3a", "type": "error", "code": code}}
    return Reply(json.dumps(told).encode(), status, headers or {})


Script = Callable[[int, dict[str, Any]], "Reply | str"]


class Server:
    """Answers on a free port, in a thread of its own, until the `with` block ends. `requests` holds what came."""

    def __init__(self, script: Script = lambda number, body: "neutral", port: int = 0):
        self.script, self.port = script, port
        self.requests: list[dict[str, Any]] = []
        self.at_once = self.most_at_once = 0
        self.ready = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> "Server":
        self.thread = threading.Thread(target=lambda: asyncio.run(self.serve()), daemon=True)
        self.thread.start()
        assert self.ready.wait(10)
        return self

    def __exit__(self, *error: object) -> None:
        self.loop.call_soon_threadsafe(self.over.set)
        self.thread.join(10)

    async def serve(self) -> None:
        self.loop, self.over = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self.connection, "127.0.0.1", self.port, backlog=256)
        self.port = server.sockets[0].getsockname()[1]
        self.ready.set()
        await self.over.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self.one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False when the connection is over."""
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        self.requests.append({"line": first, "headers": headers, "body": json.loads(raw or b"{}")})
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            given = self.script(len(self.requests), self.requests[-1]["body"])
            reply = completion(given) if isinstance(given, str) else given
            await asyncio.sleep(reply.after)
            return await self.send(writer, reply)
        finally:
            self.at_once -= 1

    async def send(self, writer: asyncio.StreamWriter, reply: Reply) -> bool:
        if reply.reset:
            writer.transport.abort()
            return False
        headers = {"Content-Type": "application/json", "Content-Length": str(len(reply.body)), **reply.headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"HTTP/1.1 {reply.status} X\r\n{head}\r\n".encode())
        if reply.trickle:
            for byte in reply.body:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(reply.trickle)
        else:
            writer.write(reply.body[: int(len(reply.body) * reply.send)])
        await writer.drain()
        return reply.send == 1.0


class _Forgetful(list):
    def append(self, item: Any) -> None:  # for a long benchmark: the last request is enough
        self[:] = [item]


if __name__ == "__main__":
    server = Server()
    server.requests = _Forgetful()
    with server:
        print(server.url, flush=True)
        server.thread.join()

"""Serve a model with llama.cpp as an OpenAI-compatible endpoint on this machine.

The server runs in a process of its own that imports neither torch nor transformers: what it holds is what an edge device
would have to hold. Unlike `answer`, llama.cpp takes "<|im_end|>" in a message for the control token: serve only texts that
may end a turn.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..models.hardware import core_count

HOST = "127.0.0.1"
SLOTS = 8
HTTP_THREADS = 320  # more than the 256 users `measure` tries at once; idle ones cost about 15 KiB each
CONTEXT = 1024  # our longest prompts take some 310 tokens, our longest answers 160
START_SECONDS = 600.0  # a folder is exported first


class ServeError(RuntimeError):
    """The server cannot be started; the message says why."""


@dataclass(frozen=True)
class Served:
    """A running server: its address, the name to ask for, the file it serves, and its process."""

    url: str  # ends in /v1
    model: str
    file: Path
    pid: int

    @property
    def endpoint(self) -> str:
        """Its name as a teacher, or as a model to evaluate."""
        return f"endpoint:{self.model}@{self.url}"


def gguf_of(model: str, precision: str = "q8_0") -> Path:
    """The GGUF file to serve: `model` itself, or its export in the cache, made by another process when it is not there.

    Raises FileNotFoundError for a missing file and ServeError when the export failed, with its last words.
    """
    if model.endswith(".gguf"):
        if not Path(model).is_file():
            raise FileNotFoundError(f"no file {model}")
        return Path(model)
    from ..models.embedded import cache_folder
    from ..models.load import fingerprint

    path = cache_folder() / "exports" / f"{fingerprint(model)}-{precision}.gguf"
    if not path.is_file():
        command = [sys.executable, "-m", "slmops_utils", "export", "--model", model, "--format", "gguf"]
        done = subprocess.run([*command, "--precision", precision, "--out", path], capture_output=True, text=True)
        if done.returncode:
            raise ServeError(f"{model} could not be exported: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return path


def serve(
    model: str,
    port: int = 0,
    slots: int = SLOTS,
    context: int = CONTEXT,
    threads: int | None = None,
    until_stdin_closes: bool = False,
) -> int:
    """Serve until SIGINT or SIGTERM, then stop cleanly. `model` is a GGUF file, or any model name (exported to q8_0).

    `slots` requests are answered at once, each with up to `context` tokens of prompt and answer; more wait in line. Port 0
    takes a free one; the address is printed. `threads` compute, by default one for each core but one: they wait for each other
    after every matrix, so one core that is busy elsewhere, be it with the requests, holds up all of them. Raises
    ServeError, and FileNotFoundError for a missing file.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    file = gguf_of(model)
    name = Path(model).stem if model.endswith(".gguf") else Path(model).name
    server = _start(file, name, port, slots, context, threads or max(1, core_count() - 1))
    print(
        f"serving {name} at {server.listening_address}/v1 ({slots} slots of {context:,} tokens); Ctrl-C stops it",
        flush=True,
    )
    if until_stdin_closes:
        threading.Thread(target=_stop_with_stdin, args=[stop], daemon=True).start()
    while not stop.wait(0.5):  # short waits: on Windows a longer one would not hear Ctrl-C
        pass
    del server  # closes the port and waits for its threads
    print("stopped", flush=True)
    return 0


def _stop_with_stdin(stop: threading.Event) -> None:
    sys.stdin.buffer.read()
    stop.set()


def _start(file: Path, name: str, port: int, slots: int, context: int, threads: int) -> Any:
    try:
        import xllamacpp
    except ImportError as error:
        raise ServeError(f"llama.cpp is missing ({error}): python -m pip install xllamacpp") from error
    with socket.socket() as probe:  # llama.cpp would only say that it failed
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ServeError(f"port {port} of {HOST} is taken or forbidden ({error.strerror}): name another") from error
    params: Any = xllamacpp.CommonParams()
    params.model.path, params.model_alias = str(file), {name}
    params.hostnames, params.port = [HOST], port
    params.n_parallel, params.n_ctx = slots, slots * context
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.verbosity, params.ui, params.endpoint_slots = 0, False, False
    params.fit_params = False  # it would choose another context by the memory that is free
    # a client keeps its connection, and each one holds a thread: with too few, now and then one waits five seconds for a
    # connection to be given up (3 waves of 216, of 16 or 32 requests each; none with these)
    params.n_threads_http = HTTP_THREADS
    params.cache_ram_mib = 0  # no old prompts kept beside the slots: up to 8 GiB otherwise
    params.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
    # what a request does not name is off, as it is elsewhere; llama.cpp's own defaults cut unlikely tokens off
    params.sampling.top_k, params.sampling.top_p, params.sampling.min_p, params.sampling.temp = 0, 1.0, 0.0, 1.0
    # a page from anywhere could talk to a server on this machine; only pages of this machine may
    params.cors_origins, params.cors_credentials = "http://localhost", False
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        raise ServeError(f"llama.cpp cannot load {file}: it is damaged, or no language model it knows") from error


@contextlib.contextmanager
def serving(
    model: str, slots: int = SLOTS, context: int = CONTEXT, port: int = 0, threads: int | None = None
) -> Iterator[Served]:
    """A server in a process of its own for as long as the block runs (see `serve`). It ends with this process, too."""
    command = [sys.executable, "-m", "slmops_utils", "serve", "--model", model, "--port", str(port)]
    command += ["--slots", str(slots), "--context", str(context), "--until-stdin-closes"]
    command += ["--threads", str(threads)] if threads else []
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        )  # fmt: skip
        assert process.stdin and process.stdout
        try:
            timer = threading.Timer(START_SECONDS, process.kill)
            timer.start()
            line = next((text for text in process.stdout if text.startswith("serving ")), "")
            timer.cancel()
            if not line:
                process.wait()
                errors.seek(0)
                raise ServeError((errors.read().strip().splitlines() or ["the server ended without a word"])[-1])
            name, _, rest = line.removeprefix("serving ").rpartition(" at http")
            yield Served("http" + rest.split()[0], name, gguf_of(model), process.pid)
        finally:
            process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()

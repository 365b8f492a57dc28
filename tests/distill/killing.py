"""Processes that are killed in the middle of their work."""

import multiprocessing
import sys
import time


def fresh_processes():
    """Processes that start in a moment, because the libraries are imported once, in the server they are forked from."""
    if sys.platform == "win32":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["slmops_utils.distill.distill", "transformers.models.llama.modeling_llama", "transformers.trainer"]
    )
    return context


def kill_when(there, target, args) -> bool:
    """Start a process and kill it as soon as a file is there; whether it was still at work."""
    process = fresh_processes().Process(target=target, args=args)
    process.start()
    started = time.monotonic()
    while not there.exists() and process.is_alive():
        assert time.monotonic() - started < 600, "the process hangs"
        time.sleep(0.0005)
    process.kill()
    process.join()
    return process.exitcode != 0

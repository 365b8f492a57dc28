"""Keep a key out of the logs of the libraries that carry it.

They hide the header it is sent in. But a server may send it back, in a header or a message, and at debug level those are
logged as they came.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator

# filters do not pass down from a logger to its children, so each that writes is named
LOGGERS = ("openai", "openai._base_client", "httpx2", "httpcore2.http11", "httpcore2.http2", "httpcore2.connection",
           "httpcore2.proxy", "httpcore2.socks")  # fmt: skip


class _Redact(logging.Filter):
    """Writes [key] for the key. It asks for the key each time, so that no frame of a running program holds it."""

    def __init__(self, secret: Callable[[], str]):
        super().__init__()
        self.secret = secret

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            secret = self.secret()
        except RuntimeError:  # there is no key
            return True
        message = record.getMessage()
        if secret not in ("", "none") and secret in message:
            record.msg, record.args = message.replace(secret, "[key]"), ()
        return True


@contextlib.contextmanager
def redacted(secret: Callable[[], str]) -> Iterator[None]:
    """Within it, no log line of those libraries holds what `secret()` returns."""
    guard = _Redact(secret)
    for name in LOGGERS:
        logging.getLogger(name).addFilter(guard)
    try:
        yield
    finally:
        for name in LOGGERS:
            logging.getLogger(name).removeFilter(guard)

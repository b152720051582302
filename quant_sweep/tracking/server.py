"""Ask a server whether it is there, within seconds, before MLflow asks, which tries again for minutes."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from functools import cache
from typing import final

from quant_sweep.tracking.failures import one_line

_PROBE_SECONDS = 5.0


@final
class Server:
    """What answers at an address. One that answered before is busy or starts again: it is waited for, once.

    Args:
        uri: http(s) address, without a slash at its end.
        restart_seconds: for how long.
        pause_seconds: between two questions.
    """

    def __init__(self, uri: str, restart_seconds: float = 60.0, pause_seconds: float = 1.0) -> None:
        self._uri, self._restart_seconds, self._pause_seconds = uri, restart_seconds, pause_seconds
        self._answered = False

    def probe(self) -> None:
        """Raise OSError unless something healthy answers."""
        end = time.monotonic() + (self._restart_seconds if self._answered else 0)
        self._answered = False
        while not self._answered:
            try:
                _ask(self._uri)
                self._answered = True
            except OSError:
                if time.monotonic() >= end:
                    raise
                time.sleep(self._pause_seconds)


@cache
def server_at(uri: str) -> Server:
    """The same one for each store that a process opens there, one for each point of a sweep."""
    return Server(uri)


def _ask(uri: str) -> None:
    """Raise OSError unless something healthy answers; a refusal (4xx) is an answer, MLflow will say why."""
    try:
        urllib.request.urlopen(f"{uri}/health", timeout=_PROBE_SECONDS).close()
    except urllib.error.HTTPError as error:
        if error.code >= 500:
            raise
    except http.client.HTTPException as error:
        raise OSError(f"what answers there speaks no HTTP: {one_line(error)}") from error

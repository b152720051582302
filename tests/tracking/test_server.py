import contextlib
import itertools
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from quant_sweep.errors import InputError
from quant_sweep.tracking import Tracker
from quant_sweep.tracking.server import Server, server_at


@contextlib.contextmanager
def answering(answers: Iterator[bytes]) -> Iterator[str]:
    """Something that answers the next of these to each request; its address."""

    class Answer(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(next(answers))

    with socketserver.TCPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


HEALTHY, MISSING, BROKEN = (b"HTTP/1.0 %d x\r\n\r\n" % status for status in (200, 404, 500))


@pytest.mark.parametrize("answer", [MISSING, BROKEN, b"SSH-2.0-OpenSSH_9.2\r\n"])
def test_a_server_that_is_not_mlflow_is_told_quickly(tmp_path: Path, answer: bytes) -> None:
    begin = time.monotonic()
    with (
        answering(itertools.repeat(answer)) as address,
        pytest.raises(InputError, match=r"tracking\.uri='http://127"),
    ):
        Tracker.open(address, "study", tmp_path / "artifacts", tmp_path / "locks")
    assert time.monotonic() - begin < 8


def test_a_server_that_starts_again_is_waited_for_once() -> None:
    with answering(iter([HEALTHY, BROKEN, BROKEN, HEALTHY])) as address:
        server = Server(address, restart_seconds=0.3, pause_seconds=0.01)
        server.probe()
        server.probe()
    for seconds in (0.3, 0.0):
        begin = time.monotonic()
        with pytest.raises(OSError, match="refused"):
            server.probe()
        assert seconds <= time.monotonic() - begin < seconds + 2


def test_a_server_is_remembered_from_one_opening_to_the_next() -> None:
    assert server_at("http://127.0.0.1:5000") is server_at("http://127.0.0.1:5000")
    assert server_at("http://127.0.0.1:5000") is not server_at("http://127.0.0.1:5001")

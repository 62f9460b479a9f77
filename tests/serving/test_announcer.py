"""What a worker tells its routers, whatever answers at their addresses."""

from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from prefillshare.serving.join.announcer import Announcer
from tests.support.http import serving

Make = Callable[[bytes], tuple[Announcer, list[str], list[str]]]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """An announcer, what it says, and the methods of the requests that come to the one router, which always answers
    the same.
    """
    monkeypatch.setattr("prefillshare.serving.join.announcer._TIMEOUT_S", 60.0)
    servers = []

    def make(answer: bytes) -> tuple[Announcer, list[str], list[str]]:
        said: list[str] = []
        heard: list[str] = []

        class Router(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                heard.append(self.command)
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_DELETE = do_PUT

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        servers.append(serving(Router))
        return Announcer([servers[-1].__enter__()], {"id": "w"}, "key", said.append), said, heard

    yield make
    for server in servers:
        server.__exit__(None, None, None)


@pytest.mark.parametrize("answer", [b"<html>soon</html>", b"", b"[]", b"\xff"])
def test_what_is_no_router_does_not_end_the_worker(make: Make, answer: bytes) -> None:
    announcer, said, _ = make(answer)
    assert announcer.step() is False
    assert not announcer.is_known
    assert "does not answer as a router (status 200): is that its address?" in said[0]
    assert announcer.refusals == said


def test_who_gives_calls_no_time_tells_that_it_leaves(make: Make) -> None:
    announcer, said, heard = make(b"{}")
    announcer.step()
    announcer.leave(0)
    assert heard == ["PUT", "DELETE"]
    assert len(said) == 1

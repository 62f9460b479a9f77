"""A local HTTP server that plays a recorded deployment, one second of it per second."""

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import orjson

from benchmarks.tui.deployment import PaperDeployment

RECORDED_S = 120
WARM_UP_S = 60


@contextlib.contextmanager
def serve_recording(*, num_workers: int, num_sessions: int) -> Iterator[str]:
    """Serve the recording while the block runs; the value is the address."""
    recording = _record(num_workers, num_sessions)
    started = time.monotonic()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = recording[min(len(recording) - 1, int(time.monotonic() - started))]
            self.send_response(200 if self.path == "/deployment/state" else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _record(num_workers: int, num_sessions: int) -> list[bytes]:
    deployment = PaperDeployment(num_modules=8, num_workers=num_workers, num_sessions=num_sessions)
    for _ in range(WARM_UP_S):
        deployment.step()
    states = []
    for _ in range(RECORDED_S):
        deployment.step()
        states.append(orjson.dumps(deployment.state()))
    return states

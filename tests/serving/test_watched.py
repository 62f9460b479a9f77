"""The watched folder: what is asked for, when, and once."""

import json
import os
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from prefillshare.serving.machine.ports import free_port
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.run import watched as watched_module
from prefillshare.serving.run.watched import Refusal, WatchedFolder, watch_folder
from tests.support.clock import Clock

WEIGHTS = "adapter_model.safetensors"


class Door:
    """What is asked of the deployment, and its answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.refusals: dict[str, Refusal] = {}

    def ask(self, method: str, path: str, body: object) -> Refusal | None:
        """One change."""
        self.asked.append((method, path))
        return self.refusals.get(path)

    def take(self) -> list[tuple[str, str]]:
        """What was asked since the last time."""
        asked, self.asked = self.asked, []
        return asked


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def pass_time(tmp_path: Path, door: Door, said: list[str]) -> Callable[[float], None]:
    """Let seconds pass, in which the folder is looked at as a launcher does it."""
    clock = Clock(100.0)
    watched = WatchedFolder(folder=tmp_path, ask=door.ask, say=said.append, now=clock)

    def go_on(seconds: float) -> None:
        until = clock.now + seconds
        while clock.now < until:
            clock.now += 0.5
            watched.step()
            deadline = time.monotonic() + 60
            while watched.is_busy and time.monotonic() < deadline:
                time.sleep(0.0005)  # for the thread that looks or asks
                watched.step()

    return go_on


def write(folder: Path, text: str = "weights") -> None:
    """A module, or a new version of it."""
    folder.mkdir(exist_ok=True)
    (folder / WEIGHTS).write_text(text)


def test_a_folder_comes_changes_and_goes(tmp_path: Path, door: Door, pass_time: Callable[[float], None]) -> None:
    write(tmp_path / "math")
    pass_time(5)
    assert door.take() == [("PUT", "/modules/math")]
    write(tmp_path / "math", "other weights")
    pass_time(5)
    assert door.take() == [("POST", "/modules/math/reload")]
    (tmp_path / "math" / WEIGHTS).unlink()
    (tmp_path / "math").rmdir()
    pass_time(5)
    assert door.take() == [("DELETE", "/modules/math")]
    write(tmp_path / "math")
    pass_time(5)
    assert door.take() == [("PUT", "/modules/math")]


def test_a_folder_that_is_being_copied_is_not_taken(
    tmp_path: Path, door: Door, pass_time: Callable[[float], None]
) -> None:
    (tmp_path / "math").mkdir()
    (tmp_path / "math" / "adapter_config.json").write_text("{}")
    pass_time(5)
    for size in range(1, 6):
        write(tmp_path / "math", "x" * size)
        pass_time(1.5)
    write(tmp_path / ".math")
    assert door.take() == []
    pass_time(3)
    assert door.take() == [("PUT", "/modules/math")]


def test_a_bad_one_is_said_once_and_leaves_the_rest_alone(
    tmp_path: Path, door: Door, said: list[str], pass_time: Callable[[float], None]
) -> None:
    door.refusals["/modules/bad"] = Refusal(status=400, reason="it does not fit")
    write(tmp_path / "bad")
    write(tmp_path / "good")
    pass_time(10)
    assert sorted(door.take()) == [("PUT", "/modules/bad"), ("PUT", "/modules/good")]
    assert said == [f"{tmp_path / 'bad'} is left as it is: it does not fit"]
    del door.refusals["/modules/bad"]
    write(tmp_path / "bad", "mended")
    pass_time(5)
    assert door.take() == [("PUT", "/modules/bad")]
    assert len(said) == 1


def test_a_version_of_the_same_size_and_time_is_another_one(
    tmp_path: Path, door: Door, pass_time: Callable[[float], None]
) -> None:
    write(tmp_path / "math", "weights-1")
    pass_time(5)
    file = tmp_path / "math" / WEIGHTS
    before = file.stat()
    while file.stat().st_ctime_ns == before.st_ctime_ns:  # the kernel's clock for files has ticks of milliseconds
        file.write_text("weights-2")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    pass_time(5)
    assert door.take() == [("PUT", "/modules/math"), ("POST", "/modules/math/reload")]


@pytest.mark.parametrize("status", [409, 503, 507])
def test_what_stands_in_the_way_may_go_and_is_tried_again(
    tmp_path: Path, door: Door, said: list[str], pass_time: Callable[[float], None], status: int
) -> None:
    write(tmp_path / "math")
    pass_time(5)
    (tmp_path / "math" / WEIGHTS).unlink()
    door.refusals["/modules/math"] = Refusal(status=status, reason="alias 'm' means it")
    pass_time(100)
    assert door.take()[:3] == [("PUT", "/modules/math"), *[("DELETE", "/modules/math")] * 2]
    assert said == [f"{tmp_path / 'math'} is left as it is: alias 'm' means it"]
    del door.refusals["/modules/math"]
    pass_time(40)
    assert door.take() == [("DELETE", "/modules/math")]
    pass_time(100)
    assert door.take() == []


def test_what_somebody_else_removed_comes_anew_when_it_changes(
    tmp_path: Path, door: Door, said: list[str], pass_time: Callable[[float], None]
) -> None:
    write(tmp_path / "math")
    write(tmp_path / "code")
    pass_time(8)
    assert len(door.take()) == 2
    gone = Refusal(status=404, reason="there is no module of that name")
    door.refusals = {"/modules/math/reload": gone, "/modules/code": gone}
    write(tmp_path / "math", "other weights")
    (tmp_path / "code" / WEIGHTS).unlink()
    pass_time(10)
    assert sorted(door.take()) == [
        ("DELETE", "/modules/code"),
        ("POST", "/modules/math/reload"),
        ("PUT", "/modules/math"),
    ]
    assert said == []
    pass_time(100)
    assert door.take() == []


def test_a_file_system_that_does_not_answer_holds_up_nobody(
    tmp_path: Path, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor asks, which looks after everything else that runs."""
    write(tmp_path / "math")
    begun, answers, looks, look = threading.Event(), threading.Event(), list[Path](), watched_module._list_modules

    def stall(folder: Path) -> watched_module.Modules:
        looks.append(folder)
        begun.set()
        answers.wait(120)
        return look(folder)

    monkeypatch.setattr(watched_module, "_list_modules", stall)
    clock = Clock()
    watched = WatchedFolder(folder=tmp_path, ask=door.ask, say=lambda text: None, now=clock)
    for _ in range(50):
        clock.now += 1.0
        watched.step()
    assert begun.wait(60)
    assert (looks, door.asked) == ([tmp_path], [])
    answers.set()
    deadline = time.monotonic() + 60
    while not door.asked and time.monotonic() < deadline:
        clock.now += 0.1
        watched.step()
        time.sleep(0.001)
    assert door.take() == [("PUT", "/modules/math")]


def test_without_a_thread_it_is_looked_again(tmp_path: Path, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    write(tmp_path / "math")
    clock = Clock()
    watched = WatchedFolder(folder=tmp_path, ask=door.ask, say=lambda text: None, now=clock)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(10):
            clock.now += 1.0
            watched.step()
    assert door.asked == []
    deadline = time.monotonic() + 60
    while not door.asked and time.monotonic() < deadline:
        clock.now += 0.1
        watched.step()
        time.sleep(0.001)
    assert door.take() == [("PUT", "/modules/math")]


def test_a_name_that_is_no_text_ends_nothing(tmp_path: Path, door: Door, pass_time: Callable[[float], None]) -> None:
    write(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")))
    write(tmp_path / "two\nlines")
    write(tmp_path / "math")
    pass_time(10)
    assert door.take() == [("PUT", "/modules/math")]


def test_it_asks_by_the_door_of_the_deployment_and_again_where_nobody_answers(tmp_path: Path, said: list[str]) -> None:
    asked: list[tuple[str, str | None, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append((self.path, self.headers.get("Authorization"), body))
            told = b'{"error": {"message": "it does not fit"}}'
            self.send_response(400)
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        def log_message(self, *words: object) -> None:
            """Say nothing."""

    port, clock = free_port(), Clock(100.0)
    watched = watch_folder(tmp_path, f"http://127.0.0.1:{port}", LaunchOptions(admin_key="admin"), said.append)
    assert watched is not None
    watched.now = clock
    write(tmp_path / "math")

    def look_until(done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not done() and time.monotonic() < deadline:
            clock.now += 0.5
            watched.step()
            time.sleep(0.01)
        assert done()

    tries: list[str] = []
    ask = watched.ask
    watched.ask = lambda *words: tries.append(words[1]) or ask(*words)
    look_until(lambda: len(tries) > 2)
    assert said == []
    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        look_until(lambda: bool(said))
        server.shutdown()
    assert said == [f"{tmp_path / 'math'} is left as it is: it does not fit"]
    path, key, body = asked[0]
    assert (path, key, json.loads(body)) == ("/modules/math", "Bearer admin", {"path": str(tmp_path / "math")})
    assert watch_folder(None, "http://127.0.0.1:1", LaunchOptions(), said.append) is None

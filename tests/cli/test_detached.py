"""`launch --detach`: the command returns when the deployment serves or why it does not; then `ps`, `logs`, `stop`."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import httpx
import pytest

from prefillshare.serving.machine.ports import free_port
from tests.support.marks import starts_engine
from tests.support.random_models import make_family
from tests.support.waiting import wait_until

START_TIMEOUT_S = 800
NAME = "random-agents"


class Commands:
    """The command line in programs of their own, with a state directory of their own."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.port = free_port()
        own = {name: value for name, value in os.environ.items() if not name.startswith("PREFILLSHARE_")}
        self.environment = {**own, "XDG_STATE_HOME": str(file.parent / "state")}
        self.ready: dict[str, object] = {}

    def start(self, *arguments: str, stdout: IO[str] | int = subprocess.PIPE) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "prefillshare", *arguments],
            env=self.environment,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        # To the end of both pipes: nothing that goes on may hold them.
        process = self.start(*arguments)
        out, said = process.communicate(timeout=START_TIMEOUT_S)
        return process.returncode, out, said

    def detach(self, *arguments: str) -> tuple[int, str, str]:
        return self.run("launch", str(self.file), "--port", str(self.port), "--detach", *arguments)


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    return Commands(make_family(tmp_path_factory.mktemp("detached")))


@pytest.fixture(scope="module")
@starts_engine
def detached(commands: Commands) -> Iterator[Commands]:
    code, out, said = commands.detach("--json", "--set", "engine.max_running_requests=7")
    assert code == 0, said
    commands.ready = json.loads(out)
    yield commands
    commands.run("stop", str(commands.ready["launcher"]), "--drain", "0")


def test_it_goes_on_by_itself_and_other_commands_find_it(detached: Commands) -> None:
    launcher = int(str(detached.ready["launcher"]))
    assert os.getsid(launcher) == launcher
    assert httpx.get(f"{detached.ready['url']}/v1/models", timeout=60).status_code == 200
    _, out, _ = detached.run("ps", "--json")
    (record,) = json.loads(out)
    assert (record["name"], record["pid"], record["state"]) == (NAME, launcher, "serving")
    assert record["overrides"] == ["engine.max_running_requests=7"]
    assert "with --set engine.max_running_requests=7" in detached.run("ps")[1]
    _, out, _ = detached.run("ask", "math", "hello", "--max-tokens", "2")
    assert out
    assert detached.run("top", "--once", "--deployment", record["name"])[0] == 0


def test_its_logs_are_printed_and_followed(detached: Commands, tmp_path: Path) -> None:
    code, out, _ = detached.run("logs", "engine")
    assert code == 0
    assert "--max-running-requests 7" in out
    _, out, _ = detached.run("logs", "--tail", "1")
    assert [line.split(" | ")[0] for line in out.splitlines()] == ["launcher", "engine"]
    code, named, _ = detached.run("logs", NAME, "--tail", "1")
    assert (code, named.startswith("launcher | ")) == (0, True)
    followed = tmp_path / "followed"
    with followed.open("w") as output:
        follower = detached.start("logs", "-f", "engine", "--tail", "0", stdout=output)
    deadline = time.monotonic() + 300
    try:
        while "of-the-log" not in followed.read_text():
            assert time.monotonic() < deadline
            httpx.get(f"{detached.ready['url']}/v1/models/of-the-log", timeout=60)
            time.sleep(0.2)
    finally:
        follower.kill()
        follower.communicate()
    assert "server_args=" not in followed.read_text()  # from its end on
    code, _, said = detached.run("logs", "engin")
    assert (code, "it has: launcher, engine" in said) == (2, True)


def test_it_is_stopped_by_its_name_when_its_calls_have_ended(detached: Commands) -> None:
    body = {"model": "math", "prompt": "hello", "max_tokens": 30, "ignore_eos": True, "stream": True}
    pieces = []
    with httpx.stream("POST", f"{detached.ready['url']}/v1/completions", json=body, timeout=300) as reply:
        lines = reply.iter_lines()
        pieces.append(next(lines))
        stopping = detached.start("stop", NAME)
        pieces += list(lines)
    assert "data: [DONE]" in pieces
    _, said = stopping.communicate(timeout=300)
    assert (stopping.returncode, said.splitlines()[-1]) == (0, "stopped")
    assert "no deployment is running" in detached.run("ps")[2]
    with pytest.raises(httpx.ConnectError):
        httpx.get(str(detached.ready["url"]), timeout=60)
    log = next((detached.file.parent / "state" / "prefillshare" / "logs").glob("*.launcher-*.log")).read_text()
    assert "serves at" in log.splitlines()[0]
    assert log.splitlines()[-1].endswith("stopped")


def test_a_start_that_fails_says_why_and_with_which_code(commands: Commands) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do; the port is held here
        taken.bind(("127.0.0.1", commands.port))
        taken.listen()
        code, out, said = commands.detach()
    assert (code, out) == (4, "")
    assert f"port {commands.port}" in said
    assert "no deployment is running" in commands.run("ps")[2]


def test_ctrl_c_ends_what_only_starts(commands: Commands) -> None:
    launching = commands.start("launch", str(commands.file), "--port", str(commands.port), "--detach")
    assert launching.stderr is not None
    assert "checking the modules" in launching.stderr.readline()
    launching.send_signal(signal.SIGINT)
    launching.communicate(timeout=300)
    assert launching.returncode != 0
    wait_until(lambda: "no deployment is running" in commands.run("ps")[2])

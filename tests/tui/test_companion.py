"""The dashboard beside a launcher: how it is left decides what becomes of the deployment, and nobody writes over it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.misbehaving import Server, served_deployment
from tests.support.tmux import Terminal

LAUNCHER = """
import sys, time
from types import SimpleNamespace
from prefillshare.cli.launch_dashboard import Dashboard
from prefillshare.serving.stopping import StopRequested

dashboard = Dashboard()
dashboard.say("before it starts")
dashboard.watch(SimpleNamespace(url=sys.argv[1], api_key="key"))
try:
    with dashboard:
        dashboard.say("while it runs")
        while True:
            dashboard.look()
            time.sleep(0.05)
except StopRequested:
    print("it is to stop")
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with served_deployment() as server:
        yield server


@pytest.fixture
def terminal(server: Server, tmp_path: Path) -> Iterator[Terminal]:
    with Terminal([sys.executable, "-c", LAUNCHER, server.deployment.url], tmp_path, width=100, height=30) as terminal:
        screen = terminal.wait_for("LIVE")
        assert "before it starts" not in screen
        yield terminal


@pytest.mark.parametrize("keys", [("q", "s"), ("C-c",)], ids=["asked", "Ctrl-C"])
def test_stopping_reaches_the_launcher(terminal: Terminal, keys: tuple[str, ...]) -> None:
    for key in keys:
        terminal.press(key)
    screen = terminal.wait_for("it is to stop")
    assert terminal.wait_for_end() == 0
    # The terminal is as it was before, and what was said meanwhile follows.
    assert screen.split("\n")[:3] == ["before it starts", "while it runs", "it is to stop"]


def test_leaving_alone_lets_it_serve(terminal: Terminal, server: Server) -> None:
    terminal.press("q", "k")
    screen = terminal.wait_for("still serving at")
    assert f"still serving at {server.deployment.url}; Ctrl-C stops" in screen
    terminal.press("C-c")
    terminal.wait_for("interrupted")

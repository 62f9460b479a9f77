"""`prefillshare top` where no screen is: one look for people and for scripts, and one line for each mistake."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.dashboard import snapshot
from tests.support.misbehaving import KEY, Server, served_deployment


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with served_deployment() as server:
        yield server


def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFILLSHARE_")}
    return subprocess.run(
        [sys.executable, "-m", "prefillshare", "top", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**environment, **variables},
    )


def test_json_is_one_line_with_the_state_as_it_was_sent(server: Server) -> None:
    done = run("--once", "--json", "--url", server.deployment.url, "--api-key", KEY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    content = json.loads(done.stdout)
    assert content["state"] == json.loads(json.dumps(server.deployment.paper.state()))
    prompt = sum(module["prompt_tokens"] for module in content["state"]["modules"])
    missed = content["summary"]["missed_tokens"]
    assert content["summary"]["prompt_tokens"] == prompt
    assert content["summary"]["hit_ratio"] == pytest.approx(1 - missed / prompt)


def test_text_has_a_line_for_every_module_and_worker(server: Server) -> None:
    done = run("--once", PREFILLSHARE_URL=server.deployment.url, PREFILLSHARE_API_KEY=KEY)
    assert done.returncode == 0, done.stderr
    shown = snapshot(server.deployment.paper.state())
    lines = {words[0]: words[1:] for line in done.stdout.splitlines() if (words := line.split())}
    for module in shown.modules:
        assert lines[module.name][4] == f"{module.prompt_tokens:,}"
    assert lines["engine"][0] == "up"
    assert "prefix hits" in done.stdout


def test_an_unknown_server_is_one_line_and_a_code(server: Server) -> None:
    done = run("--once", "--url", server.deployment.url)
    assert done.returncode == 5
    assert done.stderr.startswith(f"error: {server.deployment.url} wants an API key: give it with --api-key")
    done = run("--once", "--url", "ftp://x")
    assert done.returncode == 5
    assert "is not an address" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"), [(("--json",), "add --once"), ((), "needs a terminal: use --once")], ids=["json", "pipe"]
)
def test_what_cannot_be_shown_is_said(arguments: tuple[str, ...], says: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert says in done.stderr


def test_the_dashboard_is_a_program_of_its_own_that_imports_no_engine() -> None:
    code = (
        "import sys, prefillshare_tui.__main__;"
        "print([name for name in ('torch', 'sglang', 'transformers', 'prefillshare') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.strip() == "[]"


def test_the_dashboard_by_itself_needs_a_terminal_too() -> None:
    command = [sys.executable, "-m", "prefillshare_tui"]
    environment = {name: value for name, value in os.environ.items() if name != "TEXTUAL_DRIVER"}
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=environment, timeout=300
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "needs a terminal" in done.stderr

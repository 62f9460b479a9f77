"""The real engine: it starts, answers, says why it does not start, and leaves nothing behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from prefillshare.cli.launch_run import _print_ready
from prefillshare.config import load_deployment
from prefillshare.modules.deployment import resolve
from prefillshare.serving.launch import RunningDeployment, running_deployment
from prefillshare.serving.machine.ports import free_port
from prefillshare.serving.options import auth_header
from prefillshare.serving.run.process import group_members
from tests.support.marks import starts_engine
from tests.support.proxies import PROXIES
from tests.support.random_models import make_family
from tests.support.sockets import beyond_loopback, is_private, listening, unix_listening

PREFILLSHARE = [sys.executable, "-m", "prefillshare"]
START_TIMEOUT_S = 800
WAIT_S = 300.0
OPEN = ("--host", "0.0.0.0")


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nobody knows how its module `code` was trained."""
    file = make_family(tmp_path_factory.mktemp("launch"))
    (file.parent / "code" / "prefillshare.json").unlink()
    file.write_text(file.read_text().replace('path = "code"', 'path = "code"\naccept_naive = true'))
    return file


@pytest.fixture(scope="module")
@starts_engine
def launched(family: Path) -> Iterator["Launched"]:
    launched = Launched(family)
    yield launched
    launched.process.kill()
    launched.process.communicate()
    shutil.rmtree(launched.sockets)


class Launched:
    """`prefillshare launch --json` as a program of its own, in an environment such as batch systems and offices have.

    Behind proxies that do not answer, with a temporary folder whose path is too long for sockets; open to the network.
    """

    def __init__(self, file: Path) -> None:
        self.port = free_port()
        self.segments_before = set(os.listdir("/dev/shm"))
        self.temporary = file.parent / "of-a-batch-job" / ("0123456789" * 12)
        self.temporary.mkdir(parents=True)
        self.sockets = Path(tempfile.mkdtemp(prefix="ps-", dir="/tmp"))
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PREFILLSHARE_")},
            **PROXIES,
            "XDG_STATE_HOME": str(file.parent / "state"),
            "TMPDIR": str(self.temporary),
            "XDG_RUNTIME_DIR": str(self.sockets),
        }
        self.stderr = file.parent / "launch.err"
        with self.stderr.open("w") as stderr:
            self.process = subprocess.Popen(
                [*PREFILLSHARE, "launch", str(file), *OPEN, "--port", str(self.port), "--json", "--api-key", "key"],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=self.environment,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.stderr.read_text()
        self.ready = json.loads(line)
        self.folders = list(self.sockets.glob("prefillshare-*"))


def test_the_server_lists_its_modules_and_answers_unknown_ones_with_the_list(random_server: RunningDeployment) -> None:
    reply = httpx.get(f"{random_server.url}/v1/models", timeout=WAIT_S)
    assert {model["id"] for model in reply.json()["data"]} == {"math", "tool", "code", "random-base"}
    body = {"model": "maths", "messages": [{"role": "user", "content": "hi"}]}
    reply = httpx.post(f"{random_server.url}/v1/chat/completions", json=body, timeout=WAIT_S)
    assert reply.status_code == 404
    assert all(name in reply.text for name in ("math", "tool", "code", "random-base"))


def test_running_requests_are_counted(random_server: RunningDeployment) -> None:
    assert random_server.num_running() == 0


def test_launch_prints_one_line_of_json_and_progress_on_stderr(launched: Launched) -> None:
    ready = launched.ready
    assert ready["url"] == f"http://127.0.0.1:{launched.port}"
    assert ready["models"] == ["math", "tool", "code", "random-base"]
    assert Path(ready["log"]).is_file()
    said = launched.stderr.read_text()
    assert all(stage in said for stage in ("importing SGLang", "starting the workers", "answering a first request"))


def test_a_module_of_unknown_training_is_told_everywhere(launched: Launched) -> None:
    (warning,) = launched.ready["warnings"]
    assert "'code' has no prefillshare.json" in warning
    assert f"warning: {warning}" in launched.stderr.read_text()
    with httpx.Client(base_url=launched.ready["url"], headers=auth_header("key"), timeout=WAIT_S) as http:
        cards = {card["id"]: card for card in http.get("/v1/models").json()["data"]}
        card = http.get("/v1/models/code").json()
        modules = {one["name"]: one for one in http.get("/deployment/state").json()["modules"]}
    for told in (cards, modules):
        assert "answers badly over shared KV" in told["code"]["warning"]
        assert told["math"]["warning"] is None
    assert card["warning"] == cards["code"]["warning"]


def test_the_table_of_a_start_tells_what_answers_badly(family: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deployment = resolve(load_deployment(family))
    running = SimpleNamespace(
        deployment=deployment, start_s=1.0, log_path="log", url="http://127.0.0.1:1", api_key=None
    )
    _print_ready(running, as_json=False)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "answers badly" in line]
    assert line.startswith("code\tdecode, LoRA rank 8; training unknown")


def test_without_the_key_nothing_is_answered(launched: Launched) -> None:
    url = f"{launched.ready['url']}/v1/models"
    assert httpx.get(url, timeout=WAIT_S).status_code == 401
    assert httpx.get(url, headers=auth_header("key"), timeout=WAIT_S).status_code == 200


@pytest.mark.parametrize(
    "command",
    [
        ("ask", "math", "hi", "--max-tokens", "2"),
        ("chat", "math", "--max-tokens", "2"),
        ("top", "--once"),
        ("eval", "tiny-math", "--model", "math", "--limit", "1"),
    ],
    ids=lambda command: command[0],
)
def test_commands_reach_it_past_every_proxy(launched: Launched, command: tuple[str, ...]) -> None:
    done = subprocess.run(
        [*PREFILLSHARE, *command, "--url", launched.ready["url"], "--api-key", "key"],
        input="hi\n",
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
        env=launched.environment,
    )
    assert done.returncode == 0, done.stderr


def test_opened_to_the_network_it_opens_nothing_but_its_http_port(launched: Launched) -> None:
    assert beyond_loopback(listening([launched.ready["pid"]])) == {("0.0.0.0", launched.port)}


def test_nothing_listens_beyond_loopback(random_server: RunningDeployment) -> None:
    found = listening([random_server.pid])
    assert ("127.0.0.1", int(random_server.url.rpartition(":")[2])) in found
    assert not beyond_loopback(found)


def test_other_users_of_the_machine_reach_no_unix_socket(random_server: RunningDeployment) -> None:
    found = unix_listening([random_server.pid])
    assert found
    assert all(is_private(path) for path in found), found


def test_a_second_launch_on_the_port_is_refused_at_once(launched: Launched, family: Path) -> None:
    second = subprocess.run(
        [*PREFILLSHARE, "launch", str(family), "--port", str(launched.port)],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert second.returncode == 4
    assert f"port {launched.port} on 127.0.0.1 is in use" in second.stderr
    assert "importing SGLang" not in second.stderr  # nothing slow was begun


def test_sigterm_lets_a_running_request_finish_and_leaves_nothing(launched: Launched) -> None:
    group = launched.ready["pid"]
    answer = _running_request(launched.ready["url"])
    launched.process.send_signal(signal.SIGTERM)
    code = launched.process.wait(timeout=WAIT_S)
    assert code == 0, launched.stderr.read_text()
    assert answer.communicate(timeout=WAIT_S)[0].strip() == "200 64"
    assert group_members(group) == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(launched.ready["url"], timeout=WAIT_S)
    assert launched.folders
    assert not [folder for folder in launched.folders if folder.exists()]
    assert not [name for name in set(os.listdir("/dev/shm")) - launched.segments_before if f"-{group}-" in name]


@pytest.mark.engine
def test_an_engine_that_cannot_start_says_its_own_reason(family: Path) -> None:
    file = family.with_name("impossible.toml")
    file.write_text(family.read_text() + 'extra_args = ["--grammar-backend", "outlines"]\n')
    log = family.parent / "failed.log"
    command = [*PREFILLSHARE, "launch", str(file), "--port", str(free_port()), "--log-file", str(log)]
    failed = subprocess.run(command, capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False)
    assert failed.returncode == 4
    assert "the engine did not start" in failed.stderr
    assert "grammars are bounded for xgrammar only" in failed.stderr
    assert str(log) in failed.stderr
    assert log.is_file()
    assert failed.stdout == ""


def test_running_deployment_stops_what_it_started_when_the_block_fails(random_server: RunningDeployment) -> None:
    # Of the other context manager's errors: an address that is taken must not leave anything either.
    file = random_server.deployment.config.source
    assert file is not None
    port = int(random_server.url.rpartition(":")[2])
    with pytest.raises(Exception, match="in use"), running_deployment(file, port=port):
        pass


def _running_request(url: str) -> "subprocess.Popen[str]":
    """A request that the engine works on by now, however slowly its client started."""
    answer = None
    with httpx.Client(base_url=url, headers=auth_header("key"), timeout=WAIT_S) as http:
        while True:
            if answer is not None and answer.poll() is not None:  # it was over before anybody saw it
                answer.communicate()
                answer = None
            if answer is None:
                answer = subprocess.Popen([sys.executable, "-c", _LONG_REQUEST, url], stdout=subprocess.PIPE, text=True)
            loads = http.get("/v1/loads", params={"include": "core"}).json()["loads"]
            if any(load["num_running_reqs"] for load in loads):
                return answer
            time.sleep(0.02)


_LONG_REQUEST = """
import sys, httpx
body = {"text": "hello", "lora_path": "math", "sampling_params": {"max_new_tokens": 64, "ignore_eos": True}}
reply = httpx.post(sys.argv[1] + "/generate", json=body, headers={"Authorization": "Bearer key"}, timeout=300)
print(reply.status_code, reply.json()["meta_info"]["completion_tokens"])
"""

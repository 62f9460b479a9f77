"""An engine that is killed under load is started again by its launch: warm, with every name that it had.

`prefillshare launch` as a program of its own, and the commands that people use beside it.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefillshare.serving.machine.ports import free_port
from prefillshare.serving.run.process import group_members
from tests.support.classifiers import TINY_ROUTER
from tests.support.engines import MODELS_DIR
from tests.support.marks import starts_engine
from tests.support.stores import stored_agents, wait_for_pages, whole_pages
from tests.support.waiting import wait_until

PREFILLSHARE = [sys.executable, "-m", "prefillshare"]
WAIT_S = 600.0
PROMPT = list(range(3, 203))
NUM_TOKENS = 12
LONG = 3000


class Launched:
    """One launch with a store, and what it says."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file, self.port = folder, stored_agents(folder), free_port()
        self.said = folder / "launch.err"
        self.environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
        argv = [*PREFILLSHARE, "launch", str(self.file), "--port", str(self.port), "--json"]
        with self.said.open("w") as stderr:
            self.process = subprocess.Popen(
                argv, stdout=subprocess.PIPE, stderr=stderr, text=True, env=self.environment
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.said.read_text()
        self.url: str = json.loads(line)["url"]
        self.http = httpx.Client(base_url=self.url, timeout=WAIT_S)

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """A command of the same user."""
        return subprocess.run(
            [*PREFILLSHARE, *words], env=self.environment, capture_output=True, text=True, timeout=WAIT_S, check=False
        )

    def engine(self) -> dict[str, Any]:
        """The engine, as `prefillshare ps` tells of it."""
        [record] = json.loads(self.run("ps", "--json").stdout)
        [engine] = record["processes"]
        return dict(engine)

    def kill_engine(self, engine: dict[str, Any]) -> None:
        """Kill it, and wait until its launch has noted that. In the file: `ps` may look when it is back again."""
        [file] = (self.folder / "state" / "prefillshare" / "run").glob("*.json")
        os.killpg(engine["pid"], signal.SIGKILL)
        wait_until(
            lambda: json.loads(file.read_text())["processes"][0]["pid"] != engine["pid"],
            self.said.read_text,
            within_s=WAIT_S,
            pause_s=0.02,
        )

    def generate(self, module: str, num_tokens: int = NUM_TOKENS) -> dict[str, Any]:
        """A greedy answer."""
        sampling = {"temperature": 0, "max_new_tokens": num_tokens, "ignore_eos": True}
        reply = self.http.post(
            "/generate", json={"input_ids": PROMPT, "lora_path": module, "sampling_params": sampling}
        )
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    def wait_until_back(self, num_restarts: int) -> dict[str, Any]:
        """Wait until the engine serves in its next life."""
        deadline = time.monotonic() + WAIT_S
        while (engine := self.engine())["num_restarts"] < num_restarts or engine["state"] != "running":
            assert self.process.poll() is None, self.said.read_text()
            assert time.monotonic() < deadline, self.said.read_text()
            time.sleep(0.2)
        return engine


@pytest.fixture(scope="module")
@starts_engine
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    launched = Launched(tmp_path_factory.mktemp("restart"))
    yield launched
    launched.process.kill()
    launched.process.communicate()
    launched.http.close()


def stream_until_it_breaks(launched: Launched) -> tuple[int, Exception | None]:
    """Pieces of a long answer that came, and how it ended."""
    body = {"model": "math", "prompt": PROMPT, "max_tokens": LONG, "stream": True, "ignore_eos": True}
    num_pieces = 0
    try:
        with launched.http.stream("POST", "/v1/completions", json=body) as reply:
            for line in reply.iter_lines():
                num_pieces += line.startswith("data: {")
    except httpx.TransportError as error:
        return num_pieces, error
    return num_pieces, None


def add_late(launched: Launched, folder: Path) -> None:
    """A module and two aliases come while it serves, and a module of the file goes."""
    late = shutil.copytree(MODELS_DIR / "tiny" / "math", folder / "late")
    for words in (
        ("add", str(late)),
        ("alias", "both", "late=0.5", "tool=0.5"),
        ("alias", "newest", "late"),
        ("remove", "code"),
    ):
        done = launched.run(*words)
        assert done.returncode == 0, done.stderr


def test_a_killed_engine_comes_back_warm_with_all_that_came_while_it_served(launched: Launched, tmp_path: Path) -> None:
    add_late(launched, tmp_path)
    before, names = launched.generate("late"), launched.http.get("/v1/models").json()["data"]
    wait_for_pages(launched.file, whole_pages(len(PROMPT)) // 16)
    engine = launched.engine()
    assert (engine["state"], engine["num_restarts"]) == ("running", 0)
    with ThreadPoolExecutor(3) as pool:
        streams = [pool.submit(stream_until_it_breaks, launched) for _ in range(3)]
        wait_until(lambda: launched.http.get("/v1/loads").json()["loads"][0]["num_running_reqs"] >= 3, within_s=WAIT_S)
        launched.kill_engine(engine)
        # No other one comes before somebody has asked.
        launched.process.send_signal(signal.SIGSTOP)
        # Each caller hears at once that nothing more will come.
        ends = [stream.result(timeout=60) for stream in streams]
    refused = launched.run("ask", "math", "hello", "--url", launched.url)
    launched.process.send_signal(signal.SIGCONT)
    assert [type(error) for _, error in ends] == [httpx.RemoteProtocolError] * 3, ends
    assert refused.returncode == 5
    assert "starts engine again after a failure: try again in a moment" in refused.stderr

    back = launched.wait_until_back(1)
    assert back["pid"] != engine["pid"]
    assert back["url"] == engine["url"]
    told = launched.said.read_text()
    assert "engine ended: killed by signal 9" in told
    assert "engine is back" in told
    after = launched.generate("late")
    assert after["output_ids"] == before["output_ids"]
    assert after["meta_info"]["cached_tokens"] >= whole_pages(len(PROMPT))
    now = launched.http.get("/v1/models").json()["data"]
    assert {model["id"] for model in now} == {model["id"] for model in names}
    assert "code" not in {model["id"] for model in now}
    assert launched.http.get("/aliases").json()["aliases"] == {"both": {"late": 0.5, "tool": 0.5}, "newest": "late"}
    [worker] = launched.http.get("/deployment/state").json()["workers"]
    assert (worker["id"], worker["restarts"]) == ("engine", 1)
    # There is room for what the file had at first: rank, layers and slots are those of the first life.
    assert launched.run("add", str(MODELS_DIR / "tiny" / "code")).returncode == 0


def test_an_engine_whose_scheduler_dies_is_started_again_too(launched: Launched) -> None:
    engine = launched.engine()
    members = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in group_members(engine["pid"])}
    schedulers = [pid for pid, words in members.items() if b"scheduler" in words]
    os.kill(schedulers[0], signal.SIGKILL)
    back = launched.wait_until_back(engine["num_restarts"] + 1)
    assert not {pid for pid in members if Path(f"/proc/{pid}").exists()}
    assert back["state"] == "running"
    assert len(launched.generate("math")["output_ids"]) == NUM_TOKENS
    # What was added after the first restart has come along as well.
    assert "code" in launched.http.get("/modules").json()["decode"]


def test_a_module_that_is_gone_from_the_disk_is_left_out_and_said(launched: Launched, tmp_path: Path) -> None:
    gone = shutil.copytree(MODELS_DIR / "tiny" / "math", tmp_path / "gone")
    assert launched.run("add", str(gone)).returncode == 0
    assert launched.run("alias", "of-gone", "gone").returncode == 0
    classifier = shutil.copytree(TINY_ROUTER, tmp_path / "classifier")
    done = launched.run("alias", "chosen", "math", "--classifier", str(classifier))
    assert done.returncode == 0, done.stderr
    shutil.rmtree(gone)
    shutil.rmtree(classifier)
    engine = launched.engine()
    os.killpg(engine["pid"], signal.SIGKILL)
    launched.wait_until_back(engine["num_restarts"] + 1)
    told = launched.said.read_text()
    assert "module 'gone' cannot come back" in told
    assert "alias 'of-gone' cannot come back" in told
    assert f"alias 'chosen' cannot come back: {classifier} holds no classifier" in told
    models = {model["id"] for model in launched.http.get("/v1/models").json()["data"]}
    assert "late" in models or "math" in models
    assert not {"gone", "of-gone", "chosen"} & models


def test_ctrl_c_while_the_engine_is_away_ends_the_launch(launched: Launched) -> None:
    engine = launched.engine()
    launched.kill_engine(engine)
    launched.process.send_signal(signal.SIGINT)
    assert launched.process.wait(timeout=WAIT_S) == 0
    assert not group_members(engine["pid"])
    assert json.loads(launched.run("ps", "--json").stdout) == []

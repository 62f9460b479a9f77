"""A deployment on a Ray cluster of three nodes, driven by the commands that people use; nodes and processes are killed.

Tests run in order on one deployment: starting it is what costs.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from prefillshare.serving.machine.ports import free_port
from tests.support.engines import MODELS_DIR
from tests.support.marks import starts_engine
from tests.support.reference import Reference

TINY = MODELS_DIR / "tiny"
NUM_TOKENS = 8
WAIT_S = 600.0
CALL_S = 120.0
"""Longer than a call waits in the router before it is refused."""
PROMPTS = [[20 + (start * 37 + position * 31) % 900 for position in range(60 + 30 * start)] for start in range(3)]
ENGINE, ROUTER = "sglang_patches.forkserver", "prefillshare.routing"
FILE = """
name = "on-ray"
topology = "disaggregated"

[prefill]
name = "tiny-base"
path = "{base}"

[[decode]]
name = "math"
kind = "lora"
path = "{module}"

[engine]
max_total_tokens = 8192

[cluster]
address = "{address}"
network = "127.0.0.0/8"
token_file = "{token}"
router = {{ labels = {{ place = "front" }} }}
prefill = {{ labels = {{ place = "front" }} }}
decode = {{ labels = {{ place = "behind" }} }}
"""


@dataclass(slots=True)
class OnRay:
    """A deployment on a cluster, asked by HTTP and changed by commands."""

    folder: Path
    address: str
    nodes: list[int]
    """Process ids of the two nodes that decode workers run on."""
    port: int
    cluster: "subprocess.Popen[str]"
    """The program that has its nodes."""
    wrong: list[str] = field(default_factory=list)

    @property
    def file(self) -> Path:
        """The deployment file."""
        return self.folder / "on-ray.toml"

    def run(self, *words: str, is_ok: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run a command of `prefillshare`."""
        done = subprocess.run(
            [sys.executable, "-m", "prefillshare", *words],
            env=environment(self.folder, self.address),
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        assert (done.returncode == 0) == is_ok, done.stdout + done.stderr
        return done

    def launch(self, is_ok: bool = True) -> "subprocess.CompletedProcess[str]":
        """Let the cluster serve what the file says."""
        return self.run("launch", str(self.file), "--port", str(self.port), "--detach", "--json", is_ok=is_ok)

    def change_head(self, word: str) -> None:
        """Lose the head's server, or start it again."""
        assert self.cluster.stdin is not None
        assert self.cluster.stdout is not None
        print(word, file=self.cluster.stdin, flush=True)
        assert self.cluster.stdout.readline() == f"{word}\n"

    def members(self) -> dict[str, dict[str, Any]]:
        """What `ps` says of each."""
        rosters = json.loads(self.run("ps", "--json").stdout)
        return {member["name"]: member for roster in rosters for member in roster["members"]}

    def lives(self) -> dict[str, tuple[Any, ...]]:
        """Which life of which process each member is in: the rest of `ps` comes and goes on a busy machine."""
        deadline, members = time.monotonic() + WAIT_S, self.members()
        while not all(told["pid"] for told in members.values()):  # one that is busy did not answer in time
            assert time.monotonic() < deadline, members
            members = self.members()
        return lives_of(members)

    def up(self) -> set[str]:
        """Workers to which the router sends calls."""
        with contextlib.suppress(httpx.HTTPError):
            workers = httpx.get(f"http://127.0.0.1:{self.port}/workers", timeout=CALL_S).json()["workers"]
            return {worker["id"] for worker in workers if worker["state"] == "up"}
        return set()

    def wait_until_serving(self, *names: str, apart_from: dict[str, int] | None = None) -> dict[str, dict[str, Any]]:
        """Wait until exactly these run and are up for the router, with other processes than `apart_from` names.

        The router is asked first: each `ps` is a process that imports Ray, and takes the cores of what is waited for.
        """
        deadline, members, lost = time.monotonic() + WAIT_S, {}, apart_from or {}
        while time.monotonic() < deadline:
            if self.up() == set(names) and not any(map(psutil.pid_exists, lost.values())):
                members = self.members()
                up = {name for name, state in members.get("router-0", {}).get("workers", []) if state == "up"}
                pids = {name: members[name]["pid"] for name in names if name in members}
                # One that moves has no process, and may be up in the eyes of the router a little longer.
                is_new = all(pids.get(name) and pids[name] != pid for name, pid in lost.items())
                if set(members) == {*names, "router-0"} and up == set(names) and is_new:
                    return members
            time.sleep(1)
        raise AssertionError(f"{names} do not serve: {self.up()} are up, {members}")

    def ask(self, prompt: list[int]) -> list[int]:
        """Greedy tokens of the module."""
        sampling = {"temperature": 0, "max_new_tokens": NUM_TOKENS, "ignore_eos": True}
        body = {"input_ids": prompt, "sampling_params": sampling}
        reply = httpx.post(f"http://127.0.0.1:{self.port}/modules/math/generate", json=body, timeout=CALL_S)
        assert reply.status_code == 200, reply.text
        return reply.json()["output_ids"]

    def processes(self) -> dict[str, int]:
        """How many fork servers with engines, and routers, this deployment has on the machine."""
        found = {ENGINE: 0, ROUTER: 0}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                words = process.cmdline()
                is_ours = process.environ().get("XDG_STATE_HOME") == str(self.folder)
                if is_ours and os.getsid(process.pid) == process.pid and len(words) > 2 and words[2] in found:
                    found[words[2]] += 1
        return found

    def check_processes(self, num_workers: int, num_routers: int = 1) -> None:
        """Nothing was left behind and nothing is there twice: each worker has a fork server and an engine."""
        wanted = {ENGINE: 2 * num_workers, ROUTER: num_routers}
        deadline = time.monotonic() + WAIT_S
        while (found := self.processes()) != wanted:
            assert time.monotonic() < deadline, (found, wanted)
            time.sleep(0.5)


def lives_of(members: dict[str, dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """Which life of which process each member is in."""
    return {name: tuple(told[key] for key in ("node_id", "pid", "num_restarts")) for name, told in members.items()}


def environment(folder: Path, address: str = "") -> dict[str, str]:
    """Its own places for state, by which its processes are known, too."""
    return {**os.environ, "XDG_STATE_HOME": str(folder), "PREFILLSHARE_CLUSTER": address, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
@starts_engine
def on_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnRay]:
    folder = tmp_path_factory.mktemp("ray")
    with (folder / "nodes.log").open("w") as log:
        nodes = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.support.ray_cluster", str(folder / "head")],
            env=environment(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert nodes.stdin is not None
    assert nodes.stdout is not None
    line = nodes.stdout.readline()
    assert line, (folder / "nodes.log").read_text()
    said = json.loads(line)
    running = OnRay(folder, said["address"], said["others"], free_port(), nodes)
    try:
        write_files(running)
        yield running
    finally:
        nodes.stdin.close()
        nodes.wait(WAIT_S)
        nodes.stdout.close()


def write_files(running: OnRay) -> None:
    """The module's files are a copy: a test changes them."""
    module, token = running.folder / "math", running.folder / "token"
    shutil.copytree(TINY / "math", module)
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    running.file.write_text(FILE.format(base=TINY / "base", module=module, address=running.address, token=token))


@pytest.fixture(scope="module")
def expected() -> dict[str, list[list[int]]]:
    reference = Reference(TINY / "base", {name: TINY / name for name in ("math", "code")})
    return {name: [reference.ask(name, prompt, NUM_TOKENS).tokens for prompt in PROMPTS] for name in ("math", "code")}


@contextlib.contextmanager
def calls(running: OnRay, allowed: list[list[list[int]]]) -> Iterator[list[str]]:
    """Ask all the time while the block runs; what went wrong with any call is in the list that this gives."""
    wrong: list[str] = []
    done = threading.Event()

    def keep_asking() -> None:
        number = 0
        while not done.wait(0.2):
            index = number % len(PROMPTS)
            number += 1
            try:
                answer = running.ask(PROMPTS[index])
            except (AssertionError, httpx.HTTPError) as error:
                wrong.append(f"call {number}: {error}")
            else:
                if answer not in [answers[index] for answers in allowed]:
                    wrong.append(f"call {number}: {answer}")

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        yield wrong
    finally:
        done.set()
        asking.join()


def test_a_launcher_that_left_leaves_a_deployment_that_answers(on_ray, expected):
    said = json.loads(on_ray.launch().stdout)
    assert said["url"] == f"http://127.0.0.1:{on_ray.port}"
    assert [on_ray.ask(prompt) for prompt in PROMPTS] == expected["math"]
    on_ray.check_processes(2)


def test_a_launcher_that_comes_back_starts_nothing_twice(on_ray):
    before = on_ray.lives()
    on_ray.launch()
    assert on_ray.lives() == before


def test_a_dry_run_says_who_is_where_and_what_a_node_would_lack(on_ray):
    on_ray.wait_until_serving("prefill-0", "decode-math-0")
    planned = json.loads(on_ray.run("launch", str(on_ray.file), "--dry-run", "--json").stdout)
    assert planned["is_reachable"]
    assert {member["name"] for member in planned["members"]} == {"prefill-0", "decode-math-0", "router-0"}
    assert all(member["is_there"] and member["node"] for member in planned["members"])
    other = on_ray.folder / "other.toml"
    other.write_text(on_ray.file.read_text().replace('"on-ray"', '"other"').replace('"behind"', '"moon"'))
    refused = on_ray.run("launch", str(other), "--dry-run", is_ok=False)
    assert "no node has place=moon (there are: place=behind; place=front)" in refused.stderr


def test_logs_come_from_the_node(on_ray):
    assert "/generate" in on_ray.run("logs", "decode-math-0").stdout
    assert "router-0" in on_ray.run("logs", "nobody", is_ok=False).stderr
    assert "there is no deployment 'other'" in on_ray.run("stop", "other", is_ok=False).stderr


def test_a_lost_head_costs_no_call_and_comes_back_knowing_everybody(on_ray, expected):
    before = on_ray.lives()
    on_ray.change_head("lose")
    assert "no Ray cluster answers" in on_ray.run("ps", is_ok=False).stderr
    assert [on_ray.ask(prompt) for prompt in PROMPTS] == expected["math"]
    on_ray.change_head("return")
    assert lives_of(on_ray.wait_until_serving("prefill-0", "decode-math-0")) == before
    on_ray.check_processes(2)


def test_ctrl_c_ends_what_scaling_has_started_and_nothing_else(on_ray):
    """The next test spreads two replicas, although Ray's turn is now at the node of the first."""
    before = on_ray.lives()
    words = [sys.executable, "-m", "prefillshare", "scale", "math=2"]
    variables = environment(on_ray.folder, on_ray.address)
    with subprocess.Popen(words, env=variables, stderr=subprocess.PIPE, text=True) as scaling:
        assert scaling.stderr is not None
        assert scaling.stderr.readline().startswith("decode-math-")
        scaling.send_signal(signal.SIGINT)
        said = scaling.stderr.read()
    assert (scaling.returncode, "the rest stays" in said) == (130, True), said
    assert on_ray.lives() == before
    on_ray.check_processes(2)


def test_a_lost_node_and_a_lost_actor_cost_no_call(on_ray, expected):
    """With two replicas; the second fault comes when the first is over."""
    workers = ("prefill-0", "decode-math-0", "decode-math-1")
    with calls(on_ray, [expected["math"]]) as wrong:
        on_ray.run("scale", "math=2")
        members = on_ray.wait_until_serving(*workers)
        on_ray.check_processes(3)
        places = {name: node_of(members[name]["pid"], on_ray.nodes) for name in workers[1:]}
        assert set(places.values()) == set(on_ray.nodes), "the replicas were not spread over both nodes"
        os.kill(places["decode-math-0"], signal.SIGKILL)
        lost = {"decode-math-0": members["decode-math-0"]["pid"]}
        members = on_ray.wait_until_serving(*workers, apart_from=lost)
        engine = members["decode-math-1"]["pid"]
        actor_of(engine).kill()
        on_ray.wait_until_serving(*workers, apart_from={"decode-math-1": engine})
    assert wrong == []
    on_ray.check_processes(3)


def actor_of(engine: int) -> psutil.Process:
    """The actor's process: it has the fork server that the engine was forked from."""
    return next(parent for parent in psutil.Process(engine).parents() if parent.name().startswith("ray::"))


def node_of(pid: int, nodes: list[int]) -> int | None:
    """The node that started a process."""
    return next((parent.pid for parent in psutil.Process(pid).parents() if parent.pid in nodes), None)


def test_new_weights_replace_old_ones_without_a_failed_call(on_ray, expected):
    on_ray.run("scale", "math=1")
    for file in (TINY / "code").iterdir():
        shutil.copy(file, on_ray.folder / "math" / file.name)
    refused = on_ray.run("scale", "math=2", is_ok=False)
    assert "copy the same files to all nodes" in refused.stderr
    with calls(on_ray, [expected["math"], expected["code"]]) as wrong:
        on_ray.launch()
    assert wrong == []
    assert [on_ray.ask(prompt) for prompt in PROMPTS] == expected["code"]
    on_ray.check_processes(2)


def test_stop_leaves_nothing(on_ray):
    on_ray.run("stop", "on-ray", "--drain", "5")
    on_ray.check_processes(0, 0)
    assert "no deployment is on the cluster" in on_ray.run("ps").stderr

"""A deployment on a Ray cluster, asked by HTTP and changed by commands; what loads it, and what watches it."""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.hosts.watched import words_of
from tests.support.waiting import wait_until

NUM_TOKENS = 8
WAIT_S = 600.0
UNREACHED = 5
"""Exit code of a command whose server refused it, or did not answer."""
CALL_S = 120.0
"""Longer than a call waits in the router before it is refused."""
PROMPTS = [[20 + (start * 37 + position * 31) % 900 for position in range(60 + 30 * start)] for start in range(3)]
TOKEN = "token"
"""The file with the cluster's token."""
ENGINE, ROUTER = "sglang_patches.forkserver", "prefillshare.routing"


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

    def run(
        self, *words: str, is_ok: bool = True, variables: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command of `prefillshare`, with `variables` in place of those of its environment."""
        done = self._run(words, variables)
        assert (done.returncode == 0) == is_ok, done.stdout + done.stderr
        return done

    def run_when_answered(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a command that asks members: again, where one that is busy did not answer in time."""
        deadline, done = time.monotonic() + WAIT_S, self._run(words)
        while done.returncode == UNREACHED:
            assert time.monotonic() < deadline, done.stderr
            done = self._run(words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def _run(
        self, words: Sequence[str], variables: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "prefillshare", *words],
            env={**environment(self.folder, self.address), **(variables or {})},
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )

    def launch(self, is_ok: bool = True) -> "subprocess.CompletedProcess[str]":
        """Let the cluster serve what the file says."""
        return self.run("launch", str(self.file), "--port", str(self.port), "--detach", "--json", is_ok=is_ok)

    def change_head(self, word: str) -> None:
        """Lose the head's server, or start it again."""
        assert self._tell_cluster(word) == word

    def add_node(self) -> None:
        """Have a further node that decode workers run on."""
        self.nodes.append(int(self._tell_cluster("grow")))

    def _tell_cluster(self, word: str) -> str:
        assert self.cluster.stdin is not None
        assert self.cluster.stdout is not None
        print(word, file=self.cluster.stdin, flush=True)
        return self.cluster.stdout.readline().strip()

    def roles(self) -> dict[str, Any]:
        """What the router says of roles: the order of a move on its way, and counts; empty while it does not answer."""
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{self.port}/router/roles", timeout=CALL_S).json()
        return {}

    def wait(self, until: Callable[[], bool], what: str) -> None:
        """Wait until it is so."""
        wait_until(until, what, within_s=WAIT_S)

    def wait_until_done(self, number: int) -> None:
        """Wait until so many moves, or more, have come to their end."""
        self.wait(lambda: self.roles().get("moves", {}).get("done", 0) >= number, f"{number} moves are done")

    def wait_for_order(self, state: str) -> str:
        """Return the worker of a move once that has come to a state."""
        deadline = time.monotonic() + WAIT_S
        while (order := self.roles().get("order") or {}).get("state") != state:
            assert time.monotonic() < deadline, self.roles()
            time.sleep(0.1)
        return order["worker"]

    def members(self) -> dict[str, dict[str, Any]]:
        """What `ps` says of each."""
        deadline, done = time.monotonic() + WAIT_S, self._run(("ps", "--json"))
        while done.returncode:  # on a busy machine a cluster may not take who asks in time
            assert time.monotonic() < deadline, done.stderr
            done = self._run(("ps", "--json"))
        rosters = json.loads(done.stdout)
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

    def ask(
        self, prompt: list[int], num_tokens: int = NUM_TOKENS, *, is_stream: bool = False, module: str = "math"
    ) -> list[int]:
        """Greedy tokens of a module."""
        sampling = {"temperature": 0, "max_new_tokens": num_tokens, "ignore_eos": True}
        body = {"input_ids": prompt, "sampling_params": sampling, "stream": is_stream}
        reply = httpx.post(f"http://127.0.0.1:{self.port}/modules/{module}/generate", json=body, timeout=CALL_S)
        assert reply.status_code == 200, reply.text
        lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith(("{", "data: {"))]
        answer = json.loads(lines[-1])
        assert "output_ids" in answer, reply.text
        return answer["output_ids"]

    def processes(self) -> dict[str, int]:
        """How many fork servers with engines, and routers, this deployment has on the machine."""
        found = {ENGINE: 0, ROUTER: 0}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                words = words_of(process)
                is_ours = process.environ().get("XDG_STATE_HOME") == str(self.folder)
                if is_ours and os.getsid(process.pid) == process.pid and len(words) > 2 and words[2] in found:
                    found[words[2]] += 1
        return found

    def check_processes(self, num_workers: int, num_routers: int = 1) -> None:
        """Nothing was left behind and nothing is there twice: each worker has a fork server and an engine."""
        wanted = {ENGINE: 2 * num_workers, ROUTER: num_routers}
        wait_until(lambda: self.processes() == wanted, lambda: (self.processes(), wanted), within_s=WAIT_S, pause_s=0.5)


def lives_of(members: dict[str, dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """Which life of which process each member is in."""
    return {name: tuple(told[key] for key in ("node_id", "pid", "num_restarts")) for name, told in members.items()}


def environment(folder: Path, address: str = "") -> dict[str, str]:
    """Its own places for state, by which its processes are known, too; and the cluster's token."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / TOKEN)}
    own = {"XDG_STATE_HOME": str(folder), "PREFILLSHARE_CLUSTER": address, "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own, **token}


@contextlib.contextmanager
def load(running: OnRay, *, length: int, num_tokens: int) -> Iterator[None]:
    """Let callers ask without a pause, with prompts of which none begins as another one."""
    over, numbers = threading.Event(), itertools.count(1000)

    def keep_asking() -> None:
        while not over.is_set():
            number = next(numbers)
            prompt = [20 + number % 900, 20 + number // 900, *(20 + (number + 17 * i) % 900 for i in range(length))]
            with contextlib.suppress(AssertionError, httpx.HTTPError):  # whoever compares answers counts those
                running.ask(prompt, num_tokens)

    callers = [threading.Thread(target=keep_asking) for _ in range(8)]
    for caller in callers:
        caller.start()
    try:
        yield
    finally:
        over.set()
        for caller in callers:
            caller.join()


@contextlib.contextmanager
def calls(
    running: OnRay, allowed: list[list[list[int]]], num_callers: int = 1, *, may_cut_streams: bool = False
) -> Iterator[list[str]]:
    """Ask all the time while the block runs, every other time for a stream.

    What went wrong with any call is in the list that this gives. Where workers are killed, a stream that has begun may
    be cut, which its last message says; nothing else may be.
    """
    wrong: list[str] = []
    done, numbers = threading.Event(), itertools.count()

    def keep_asking() -> None:
        while not done.wait(0.2):
            number = next(numbers)
            index = number % len(PROMPTS)
            try:
                answer = running.ask(PROMPTS[index], is_stream=number % 2 == 0)
            except (AssertionError, httpx.HTTPError) as error:
                if not (may_cut_streams and _is_cut_stream(str(error))):
                    wrong.append(f"call {number}: {error}")
            else:
                if answer not in [answers[index] for answers in allowed]:
                    wrong.append(f"call {number}: {answer}")

    callers = [threading.Thread(target=keep_asking) for _ in range(num_callers)]
    for caller in callers:
        caller.start()
    try:
        yield wrong
    finally:
        done.set()
        for caller in callers:
            caller.join()


def _is_cut_stream(said: str) -> bool:
    return said.startswith('data: {"text"') and '"code":"worker_failed"' in said.rstrip().splitlines()[-1]


def actor_of(engine: int) -> psutil.Process:
    """The actor's process: it has the fork server that the engine was forked from."""
    return next(parent for parent in psutil.Process(engine).parents() if parent.name().startswith("ray::"))


def node_of(pid: int, nodes: list[int]) -> int | None:
    """The node that started a process."""
    return next((parent.pid for parent in psutil.Process(pid).parents() if parent.pid in nodes), None)

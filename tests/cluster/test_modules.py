"""A whole disaggregated deployment whose modules come, change and go: under load, over deaths, and no call fails."""

import contextlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster.conftest import MODULES, Cluster
from tests.support.engines import MODELS_DIR

TINY = MODELS_DIR / "tiny"
ADMIN = {"Authorization": "Bearer admin"}
PROMPTS = ("Omar 3 boxes", "def sort(xs):", "call the weather of Rome")


def change(cluster: Cluster, method: str, path: str, body: object = None) -> httpx.Response:
    """Ask the router for a change."""
    return cluster.http.request(method, path, json=body, headers=ADMIN, timeout=300)


def reason(reply: httpx.Response, status: int) -> str:
    """Why a change was refused."""
    assert reply.status_code == status, reply.text
    return reply.json()["error"]["message"]


def write_version(folder: Path, module: str) -> None:
    """Put another adapter into the directory."""
    for file in (TINY / module).iterdir():
        shutil.copyfile(file, folder / file.name)


def texts(cluster: Cluster, module: str) -> list[str]:
    """What a module says to each prompt."""
    replies = [cluster.complete(module, prompt) for prompt in PROMPTS]
    assert [reply.status_code for reply in replies] == [200] * len(PROMPTS), [reply.text for reply in replies]
    return [reply.json()["choices"][0]["text"] for reply in replies]


def answers(cluster: Cluster, module: str) -> bool:
    """Whether it answers a call just now."""
    try:
        return cluster.complete(module).status_code == 200
    except httpx.TransportError:
        return False


def workers_of(cluster: Cluster, module: str) -> list[str]:
    """Names of a module's processes, as `prefillshare ps` shows them."""
    return [process.name for process in cluster.running.processes() if process.module == module]


@contextlib.contextmanager
def calling(cluster: Cluster, module: str) -> Iterator[list[Any]]:
    """Call a module again and again meanwhile; what comes back."""
    said: list[Any] = []
    stopped = threading.Event()

    def call() -> None:
        while not stopped.is_set():
            reply = cluster.complete(module, PROMPTS[0], max_tokens=24)
            said.append(reply.json()["choices"][0]["text"] if reply.status_code == 200 else reply.text)

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield said
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


@pytest.fixture
def folder(cluster: Cluster, tmp_path: Path) -> Iterator[Path]:
    """The directory of a module `late`, at first a copy of math; what a test leaves of it goes from the deployment."""
    yield Path(shutil.copytree(TINY / "math", tmp_path / "late"))
    change(cluster, "DELETE", "/aliases/latest")
    change(cluster, "DELETE", "/modules/late")
    assert workers_of(cluster, "late") == []


def test_full_weights_come_change_and_go(cluster: Cluster, folder: Path) -> None:
    table = {"path": str(folder), "kind": "full", "merge": True}
    math, code = texts(cluster, "math"), texts(cluster, "code")
    told = change(cluster, "PUT", "/modules/late", table)
    assert told.status_code == 200, told.text
    assert told.json()["kind"] == "full"
    assert texts(cluster, "late") == math
    assert workers_of(cluster, "late") == ["decode-late-0"]
    assert "late" in cluster.running.model_names

    old = cluster.complete("late", PROMPTS[0], max_tokens=24).json()["choices"][0]["text"]
    write_version(folder, "code")
    with calling(cluster, "late") as said:
        assert change(cluster, "POST", "/modules/late/reload").status_code == 200
        assert texts(cluster, "late") == code
    new = cluster.complete("late", PROMPTS[0], max_tokens=24).json()["choices"][0]["text"]
    assert set(said) <= {old, new}
    assert workers_of(cluster, "late") == ["decode-late-1"]

    cluster.kill("decode-late-1")
    cluster.kill("router")
    cluster.wait(lambda: answers(cluster, "late") and answers(cluster, "math"), "the modules answer again")
    assert texts(cluster, "late") == code
    with calling(cluster, "math") as others:
        assert change(cluster, "DELETE", "/modules/late").json() == {"name": "late"}
    assert len(set(others)) == 1
    assert "model 'late' does not exist" in reason(cluster.complete("late"), 404)
    assert workers_of(cluster, "late") == []
    kinds = [event["message"] for event in cluster.http.get("/deployment/state").json()["events"]]
    assert "it was removed, and its calls have ended" in kinds


def test_an_adapter_is_read_anew_by_its_worker(cluster: Cluster, folder: Path) -> None:
    math, code = texts(cluster, "math"), texts(cluster, "code")
    assert change(cluster, "PUT", "/modules/late", {"path": str(folder)}).json()["kind"] == "lora"
    assert texts(cluster, "late") == math
    pid = cluster.process("decode-late-0").pid
    write_version(folder, "code")
    with calling(cluster, "late") as said:
        assert change(cluster, "POST", "/modules/late/reload").status_code == 200
        assert texts(cluster, "late") == code
    assert len(set(said)) <= 2
    assert cluster.process("decode-late-0").pid == pid
    (folder / "adapter_model.safetensors").write_bytes(b"half of a cop")
    assert "late" in reason(change(cluster, "POST", "/modules/late/reload"), 400)
    assert texts(cluster, "late") == code

    assert change(cluster, "PUT", "/aliases/latest", {"module": "late"}).status_code == 200
    assert cluster.complete("latest").json()["model"] == "late"
    assert "alias 'latest' means module 'late'" in reason(change(cluster, "DELETE", "/modules/late"), 409)
    cluster.kill("router")
    cluster.wait(lambda: all(answers(cluster, name) for name in (*MODULES, "latest")), "the alias is still there")
    assert cluster.http.get("/v1/models/latest").json()["alias_of"] == {"late": 1.0}
    assert change(cluster, "DELETE", "/aliases/latest").status_code == 200


def test_rules_choose_by_words_and_headers(cluster: Cluster) -> None:
    rules = [{"module": "code", "text": "def "}, {"module": "tool", "header": "X-Task"}]
    assert change(cluster, "PUT", "/aliases/auto", {"default": "math", "rules": rules}).status_code == 200

    def answers(content: str, **headers: str) -> str:
        body = {"model": "auto", "max_tokens": 1, "messages": [{"role": "user", "content": content}]}
        return cluster.http.post("/v1/chat/completions", json=body, headers=headers).json()["model"]

    assert [answers("hi"), answers("def f"), answers("hi", **{"x-task": "mail"})] == ["math", "code", "tool"]
    assert change(cluster, "DELETE", "/aliases/auto").status_code == 200


def test_what_cannot_be_served_changes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    before = workers_of(cluster, "math"), cluster.running.model_names
    assert "admin key" in reason(cluster.http.put("/modules/late", json={"path": str(TINY / "math")}), 401)
    naive = {"path": str(TINY / "naive" / "math")}
    assert "answers badly over shared KV" in reason(change(cluster, "PUT", "/modules/late", naive), 400)
    assert "no directory" in reason(change(cluster, "PUT", "/modules/late", {"path": str(tmp_path / "no")}), 400)
    assert "is that of a decode module" in reason(change(cluster, "PUT", "/modules/math", naive), 409)
    assert "module 'nope' does not exist" in reason(change(cluster, "DELETE", "/modules/nope"), 404)
    assert "must be a JSON object" in reason(change(cluster, "PUT", "/modules/late", [1]), 400)
    assert "'nope', which is no decode module" in reason(change(cluster, "PUT", "/aliases/a", {"module": "nope"}), 400)
    assert (workers_of(cluster, "math"), cluster.running.model_names) == before

"""One engine whose modules come, change and go: each answers as the reference does, and cached KV stays."""

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.fidelity.conftest import NUM_TOKENS, Expected, Prompt
from tests.support.engines import MODELS_DIR, Endpoint

TINY = MODELS_DIR / "tiny"
LONG = 160


@pytest.fixture
def folder(agents: Endpoint, tmp_path: Path) -> Iterator[Path]:
    """The directory of a module `late`, at first a copy of math; what a test leaves of it goes from the engine."""
    yield Path(shutil.copytree(TINY / "math", tmp_path / "late"))
    for alias in agents.http.get("/aliases").json()["aliases"]:
        agents.http.delete(f"/aliases/{alias}")
    agents.http.delete("/modules/late")
    assert agents.http.get("/modules").json()["decode"] == ["math", "tool", "code"]


def put(agents: Endpoint, path: Path, name: str = "late", **fields: object) -> httpx.Response:
    """Add a module."""
    return agents.http.put(f"/modules/{name}", json={"path": str(path), **fields})


def reason(reply: httpx.Response, status: int) -> str:
    """Why a change was refused."""
    assert reply.status_code == status, reply.text
    return reply.json()["error"]["message"]


def write_version(folder: Path, module: str) -> None:
    """Put another adapter into the directory."""
    for file in (TINY / module).iterdir():
        shutil.copyfile(file, folder / file.name)


def test_a_module_is_added_reloaded_and_removed(
    agents: Endpoint, prompts: list[Prompt], expected: Expected, folder: Path
) -> None:
    prompt = prompts[0]
    agents.flush()
    agents.generate(prompt, "tool", NUM_TOKENS)
    assert put(agents, folder).json()["kind"] == "lora"
    first = agents.generate(prompt, "late", NUM_TOKENS)
    assert first.tokens == expected[prompt, "math"].tokens
    write_version(folder, "code")
    assert agents.http.post("/modules/late/reload").status_code == 200
    second = agents.generate(prompt, "late", NUM_TOKENS)
    assert second.tokens == expected[prompt, "code"].tokens
    assert first.tokens != second.tokens
    # The prefill module's KV serves every version: only x_n is new.
    assert first.cached_tokens == second.cached_tokens == len(prompt) - 1
    assert "late" in [module["name"] for module in agents.http.get("/deployment/state").json()["modules"]]

    assert agents.http.delete("/modules/late").json() == {"name": "late"}
    refused = agents.http.post("/generate", json={"input_ids": list(prompt), "lora_path": "late"})
    assert refused.status_code == 400
    assert "late" in reason(agents.chat("late", "hi"), 404)
    assert "late" not in [module["name"] for module in agents.http.get("/deployment/state").json()["modules"]]


def test_calls_that_run_end_on_the_version_that_they_began_with(
    agents: Endpoint, prompts: list[Prompt], reference, folder: Path
) -> None:
    prompt = prompts[1]
    assert put(agents, folder).status_code == 200
    before, after = (reference.ask(module, prompt, LONG).tokens for module in ("math", "code"))
    seen = threading.Event()
    tokens: list[int] = []

    def stream() -> None:
        body = {
            "input_ids": list(prompt),
            "lora_path": "late",
            "stream": True,
            "sampling_params": {"temperature": 0, "max_new_tokens": LONG, "ignore_eos": True},
        }
        with agents.http.stream("POST", "/generate", json=body) as reply:
            for line in reply.iter_lines():
                if line.startswith("data: {"):
                    tokens[:] = json.loads(line.removeprefix("data: "))["output_ids"]
                    seen.set()

    running = threading.Thread(target=stream)
    running.start()
    assert seen.wait(300)
    write_version(folder, "code")
    assert agents.http.post("/modules/late/reload").status_code == 200
    assert agents.generate(prompt, "late", 8).tokens == after[:8]
    running.join()
    assert tokens == before
    assert agents.http.delete("/modules/late").status_code == 200


def test_what_cannot_be_served_changes_nothing(agents: Endpoint, folder: Path, tmp_path: Path) -> None:
    assert "no directory of the server's machine" in reason(put(agents, tmp_path / "nowhere"), 400)
    assert "is relative" in reason(put(agents, Path("late")), 400)
    assert "unknown key 'pth'" in reason(put(agents, folder, pth=1), 400)
    assert "give a JSON object" in reason(agents.http.put("/modules/late", json=[1]), 400)
    assert "cannot be a model name" in reason(put(agents, folder, name="a@b"), 400)
    assert "is that of a decode module: reload it" in reason(put(agents, folder, name="math"), 409)
    assert "is that of the prefill module" in reason(put(agents, folder, name="tiny-base"), 409)
    assert "'full', which" in reason(put(agents, TINY / "base"), 400).replace('kind = "full"', "'full'")
    assert "answers badly over shared KV" in reason(put(agents, TINY / "naive" / "math"), 400)
    reason_against_own_prompts = reason(put(agents, TINY / "naive" / "math", share=False), 400)
    assert "share = false for 'late': this engine keeps KV apart only of modules that" in reason_against_own_prompts
    assert "module 'late' does not exist" in reason(agents.http.delete("/modules/late"), 404)
    assert "module 'late' does not exist" in reason(agents.http.post("/modules/late/reload"), 404)

    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "r": config["r"] + 1}))
    assert "rank" in reason(put(agents, folder), 400)
    manifest = json.loads((folder / "prefillshare.json").read_text())
    write_version(folder, "math")
    other = {**manifest, "prefill_fingerprint": "sha256:" + "0" * 64}
    (folder / "prefillshare.json").write_text(json.dumps(other))
    assert "was trained on the prefill module 000000000000" in reason(put(agents, folder), 400)
    assert agents.http.get("/modules").json()["decode"] == ["math", "tool", "code"]


def test_upstreams_doors_lead_here(agents: Endpoint, folder: Path) -> None:
    def post(verb: str, **fields: object) -> httpx.Response:
        return agents.http.post(f"/{verb}_lora_adapter", json=fields)

    assert post("load", lora_name="late", lora_path=str(folder)).json()["loaded_adapters"] == {"late": str(folder)}
    assert "is that of a decode module" in reason(post("load", lora_name="late", lora_path=str(folder)), 409)
    assert "is that of the prefill module" in reason(post("load", lora_name="tiny-base", lora_path=str(folder)), 409)
    assert "lora_path is missing" in reason(post("load", lora_name="other"), 400)
    assert "pinned is true" in reason(post("load", lora_name="other", lora_path=str(folder), pinned=True), 400)
    agents.http.put("/aliases/latest", json={"module": "late"})
    assert "alias 'latest' means module 'late'" in reason(post("unload", lora_name="late"), 409)
    agents.http.delete("/aliases/latest")
    assert post("unload", lora_name="late").status_code == 200
    # SGLang would load it again for this call.
    refused = agents.http.post("/generate", json={"text": "hi", "lora_path": "late"})
    assert "late" in reason(refused, 400)


def test_a_version_that_does_not_fit_leaves_the_old_one(
    agents: Endpoint, prompts: list[Prompt], expected: Expected, folder: Path
) -> None:
    assert put(agents, folder).status_code == 200
    (folder / "adapter_model.safetensors").write_bytes(b"half of a cop")
    assert "late" in reason(agents.http.post("/modules/late/reload"), 400)
    assert agents.generate(prompts[2], "late", NUM_TOKENS).tokens == expected[prompts[2], "math"].tokens


def test_rules_choose_by_words_and_headers(agents: Endpoint) -> None:
    rules = [
        {"module": "code", "text": r"(?i)\bdef\b"},
        {"module": "newest", "header": "X-Task", "value": "mail|post"},
    ]
    agents.http.put("/aliases/newest", json={"module": "tool"})
    told = agents.http.put("/aliases/auto", json={"default": "math", "rules": rules})
    assert told.json()["aliases"]["auto"] == {"default": "math", "rules": rules}

    def answers(content: object, **headers: str) -> str:
        body = {"model": "auto", "max_tokens": 1, "messages": [{"role": "user", "content": content}]}
        return agents.http.post("/v1/chat/completions", json=body, headers=headers).json()["model"]

    assert [answers("hi"), answers("Please DEF it"), answers("define")] == ["math", "code", "math"]
    assert answers([{"type": "text", "text": "def f"}]) == "code"
    assert [answers("hi", **{"X-Task": "mail"}), answers("hi", **{"X-Task": "mailer"})] == ["tool", "math"]
    completion = {"model": "auto", "prompt": "def", "max_tokens": 1}
    assert agents.http.post("/v1/completions", json=completion).json()["model"] == "code"
    assert agents.http.get("/v1/models/auto").json()["alias_of"] == ["math", "code", "newest"]

    assert "alias 'auto' means 'newest'" in reason(agents.http.delete("/aliases/newest"), 409)
    bad = {"default": "math", "rules": [{"module": "code", "text": "(?=a)"}]}
    assert "no pattern of RE2" in reason(agents.http.put("/aliases/auto", json=bad), 400)
    for alias in ("auto", "newest"):
        assert agents.http.delete(f"/aliases/{alias}").status_code == 200


def test_an_alias_names_who_answers(agents: Endpoint, prompts: list[Prompt], expected: Expected, folder: Path) -> None:
    assert put(agents, folder).status_code == 200
    assert agents.http.put("/aliases/latest", json={"module": "late"}).json() == {"aliases": {"latest": "late"}}
    assert agents.chat("latest", "hi", max_tokens=2).json()["model"] == "late"
    assert agents.generate(prompts[0], "latest", NUM_TOKENS).tokens == expected[prompts[0], "math"].tokens
    message = {"model": "latest", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    assert agents.http.post("/v1/messages", json=message).json()["model"] == "late"
    card = agents.http.get("/v1/models/latest").json()
    assert (card["id"], card["root"], card["alias_of"]) == ("latest", "late", {"late": 1.0})

    agents.http.put("/aliases/math-or-code", json={"weights": {"math": 0.5, "code": 0.5}})
    sessions = [f"user-{number}" for number in range(12)]
    twice = [
        [agents.chat("math-or-code", "hi", max_tokens=1, user=session).json()["model"] for session in sessions]
        for _ in range(2)
    ]
    assert twice[0] == twice[1]
    assert set(twice[0]) == {"math", "code"}

    assert "alias 'latest' means module 'late'" in reason(agents.http.delete("/modules/late"), 409)
    assert "is that of an alias" in reason(put(agents, folder, name="latest"), 409)
    assert "is also the name of a module" in reason(agents.http.put("/aliases/math", json={"module": "code"}), 400)
    assert "'nope', which is no decode module" in reason(agents.http.put("/aliases/a", json={"module": "nope"}), 400)
    assert "name a module" in reason(agents.http.put("/aliases/a", json={"modul": "math"}), 400)
    assert "there is no alias 'a'" in reason(agents.http.delete("/aliases/a"), 404)

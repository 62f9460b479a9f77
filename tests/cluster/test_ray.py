"""A deployment on a Ray cluster of three nodes, driven by the commands that people use; nodes and processes are killed.

Tests run in order on one deployment: starting it is what costs.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefillshare.serving.machine.ports import free_port
from tests.support.engines import MODELS_DIR
from tests.support.marks import starts_engine
from tests.support.on_ray import (
    NUM_TOKENS,
    PROMPTS,
    TOKEN,
    UNREACHED,
    WAIT_S,
    OnRay,
    actor_of,
    calls,
    environment,
    load,
    node_of,
)
from tests.support.reference import Reference

TINY = MODELS_DIR / "tiny"
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


ROLES = """
[router]
max_running_per_worker = 4

[roles]
follow_load = true
interval_s = 0.25
window_s = 2.0
prefill_wait_ms = 100
decode_wait_ms = 100
cool_down_s = 0
"""
"""Calls soon wait, and moves are soon decided."""


@pytest.fixture(scope="module")
@starts_engine
def on_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnRay]:
    folder = tmp_path_factory.mktemp("ray")
    write_token(folder / TOKEN)
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


def write_token(file: Path) -> None:
    file.touch(mode=0o600)
    file.write_text(secrets.token_hex(32))


def write_files(running: OnRay) -> None:
    """The module's files are a copy: a test changes them."""
    module, token = running.folder / "math", running.folder / TOKEN
    shutil.copytree(TINY / "math", module)
    running.file.write_text(FILE.format(base=TINY / "base", module=module, address=running.address, token=token))


def copy_other_weights(running: OnRay, module: str = "code") -> None:
    """From now on the module's files are another one's."""
    for file in (TINY / module).iterdir():
        shutil.copy(file, running.folder / "math" / file.name)


def want_two_replicas(running: OnRay) -> None:
    text = running.file.read_text()
    if "replicas" not in text:
        running.file.write_text(text.replace('kind = "lora"', 'kind = "lora"\nreplicas = 2'))


def want_roles_that_move(running: OnRay) -> None:
    """All workers may be on the same nodes, and are soon moved."""
    want_two_replicas(running)
    text = running.file.read_text()
    if "[roles]" not in text:
        running.file.write_text(text.replace('"front" } }\ndecode', '"behind" } }\ndecode') + ROLES)


def num_doing(members: dict[str, dict]) -> dict[str, int]:
    """How many workers do what now, whatever their names say."""
    groups = [told["group"] for name, told in members.items() if not name.startswith("router-")]
    return dict(Counter(group["module"] or group["role"] for group in groups))


def stop(running: OnRay) -> None:
    """End the deployment: nothing of it is left."""
    running.run("stop", "on-ray", "--drain", "5")
    running.check_processes(0, 0)


@pytest.fixture(scope="module")
def expected() -> dict[str, list[list[int]]]:
    reference = Reference(TINY / "base", {name: TINY / name for name in ("math", "code")})
    return {name: [reference.ask(name, prompt, NUM_TOKENS).tokens for prompt in PROMPTS] for name in ("math", "code")}


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
    planned = dry_run(on_ray)
    assert planned["is_reachable"]
    assert {member["name"] for member in planned["members"]} == {"prefill-0", "decode-math-0", "router-0"}
    assert all(member["is_there"] and member["node"] for member in planned["members"])
    other = on_ray.folder / "other.toml"
    other.write_text(on_ray.file.read_text().replace('"on-ray"', '"other"').replace('"behind"', '"moon"'))
    refused = on_ray.run("launch", str(other), "--dry-run", is_ok=False)
    assert "no node has place=moon (there are: place=behind; place=front)" in refused.stderr


def dry_run(running: OnRay) -> dict[str, Any]:
    """What it says when each member has told where it is: one that is busy did not answer in time."""
    deadline = time.monotonic() + WAIT_S
    while True:
        planned = json.loads(running.run("launch", str(running.file), "--dry-run", "--json").stdout)
        is_whole = planned["is_reachable"] and all(member["node"] for member in planned["members"])
        if is_whole or time.monotonic() > deadline:
            return planned


def test_commands_work_with_the_token_and_say_what_lacks_without(on_ray):
    """Nobody gets anything, and the deployment stays as it is."""
    before = on_ray.lives()
    others = (("top", "--once"), ("logs", "router-0"), ("scale", "math=2"), ("stop", "on-ray"))
    other = on_ray.folder / "other-token"
    write_token(other)
    for variables, said, commands in (
        ({"RAY_AUTH_MODE": "disabled"}, "wants a token: set RAY_AUTH_MODE=token", others),
        ({"RAY_AUTH_TOKEN_PATH": str(other)}, f"takes another token than that in {other}", ()),
        ({"RAY_AUTH_TOKEN_PATH": str(on_ray.folder / "none")}, "let RAY_AUTH_TOKEN_PATH name the file", ()),
    ):
        for words in (("ps",), *commands):
            refused = on_ray.run(*words, is_ok=False, variables=variables)
            assert (refused.returncode, refused.stdout) == (UNREACHED, ""), words
            assert said in refused.stderr, (words, refused.stderr)
    assert on_ray.lives() == before
    assert "decode-math-0" in on_ray.run_when_answered("top", "--once").stdout
    assert "decode-math-0" in on_ray.run_when_answered("ps").stdout


def test_roles_and_aliases_outlive_the_processes_that_came_to_them(on_ray):
    """All at once, and whichever router knew what. Not the members: others of their names begin anew."""
    told = ask_head(on_ray)
    assert told["is_new"]
    nothing = {"role": None, "aliases": {}}
    changed = {
        "old": [1, "http://10.0.0.1:1", "math"],
        "new": [3, "http://10.0.0.2:1", "code"],
        "both": [4, "http://10.0.0.2:1", None],
    }
    kept = {"role": {"role": "prefill", "module": None}, "aliases": changed}
    assert told["said"] == [nothing, kept, nothing]


def ask_head(running: OnRay, *words: str) -> dict[str, Any]:
    """What `tests.support.ray_memory` says."""
    argv = [sys.executable, "-W", "ignore", "-m", "tests.support.ray_memory", running.address, *words]
    variables = environment(running.folder, running.address)
    done = subprocess.run(argv, env=variables, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


def test_an_alias_outlives_all_routers(on_ray):
    """There is one, and it is lost with its actor."""
    assert on_ray.run_when_answered("alias", "newest", "math").stdout == 'newest = "math"\n'
    on_ray.wait(lambda: "newest" in ask_head(on_ray, "on-ray"), "the head keeps it")
    _, router, _ = on_ray.lives()["router-0"]
    actor_of(router).kill()
    on_ray.wait(lambda: on_ray.lives()["router-0"][1] != router, "there is another router")
    on_ray.wait_until_serving("prefill-0", "decode-math-0")
    assert httpx.get(f"http://127.0.0.1:{on_ray.port}/aliases", timeout=60).json() == {"aliases": {"newest": "math"}}
    assert on_ray.run("remove", "newest").stdout == "newest is removed\n"


def test_logs_come_from_the_node(on_ray):
    assert "/generate" in on_ray.run_when_answered("logs", "decode-math-0").stdout
    assert "router-0" in on_ray.run("logs", "nobody", is_ok=False).stderr
    assert "there is no deployment 'other'" in on_ray.run("stop", "other", is_ok=False).stderr


def test_a_lost_head_costs_no_call_and_comes_back_knowing_everybody(on_ray, expected):
    before = on_ray.lives()
    on_ray.change_head("lose")
    assert "no Ray cluster answers" in on_ray.run("ps", is_ok=False).stderr
    assert [on_ray.ask(prompt) for prompt in PROMPTS] == expected["math"]
    on_ray.change_head("return")
    on_ray.wait_until_serving("prefill-0", "decode-math-0")
    assert on_ray.lives() == before
    on_ray.check_processes(2)


def test_ctrl_c_ends_what_scaling_has_started_and_nothing_else(on_ray):
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


@pytest.mark.long
def test_a_module_that_the_file_has_no_more_is_ended_when_all_others_serve(on_ray, expected):
    """It was given another name, so that there are three workers for a moment."""
    on_ray.launch()
    before, text = on_ray.lives(), on_ray.file.read_text()
    on_ray.file.write_text(text.replace('name = "math"', 'name = "sums"'))
    said = on_ray.launch().stderr
    after = on_ray.lives()
    assert after.keys() == (before.keys() - {"decode-math-0"}) | {"decode-sums-0"}
    assert all(after[name] == before[name] for name in ("router-0", "prefill-0"))
    assert "the file has no module of decode-math-0 any more" in said
    assert "decode-math-0 has left" in said
    listed = httpx.get(f"http://127.0.0.1:{on_ray.port}/v1/models", timeout=60).json()["data"]
    assert {"sums", "math"} & {card["id"] for card in listed} == {"sums"}
    assert [on_ray.ask(prompt, module="sums") for prompt in PROMPTS] == expected["math"]
    on_ray.check_processes(2)
    # `scale` is asked for some numbers, and leaves the rest as it is.
    on_ray.run("scale", "prefill=1")
    assert on_ray.lives() == after
    on_ray.file.write_text(text)
    on_ray.launch()
    assert on_ray.lives().keys() == before.keys()


def test_stop_leaves_nothing(on_ray):
    stop(on_ray)
    assert "no deployment is on the cluster" in on_ray.run("ps").stderr


@pytest.mark.long
def test_the_launch_after_a_launcher_that_was_killed_waits_for_what_that_one_started(on_ray, expected):
    if on_ray.members():
        stop(on_ray)
    words = [sys.executable, "-m", "prefillshare", "launch", str(on_ray.file), "--port", str(on_ray.port), "--detach"]
    variables = environment(on_ray.folder, on_ray.address)
    with subprocess.Popen(words, env=variables, stderr=subprocess.PIPE, text=True) as launcher:
        assert launcher.stderr is not None
        while "starting on" not in launcher.stderr.readline():
            assert launcher.poll() is None
        launcher.kill()
    assert not any(member["state"] == "running" for name, member in on_ray.members().items() if "-math-" in name)
    on_ray.launch()
    assert [on_ray.ask(prompt) for prompt in PROMPTS] == expected["math"]
    on_ray.check_processes(2)
    stop(on_ray)


@pytest.mark.long
def test_a_lost_node_and_a_lost_actor_cost_no_call_but_streams_that_had_begun(on_ray, expected):
    """With two replicas; the second fault comes when the first is over."""
    workers = ("prefill-0", "decode-math-0", "decode-math-1")
    on_ray.launch()
    with calls(on_ray, [expected["math"]], may_cut_streams=True) as wrong:
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


@pytest.mark.long
def test_new_weights_replace_old_ones_without_a_failed_call(on_ray, expected):
    """Two replicas, one after the other, under load."""
    on_ray.run("scale", "math=2")
    copy_other_weights(on_ray)
    refused = on_ray.run("scale", "math=3", is_ok=False)
    assert "copy the same files to all nodes" in refused.stderr
    before = on_ray.members()
    want_two_replicas(on_ray)
    with calls(on_ray, [expected["math"], expected["code"]], num_callers=4) as wrong:
        on_ray.launch()
    assert wrong == []
    with calls(on_ray, [expected["code"]], num_callers=4) as wrong:  # whichever of them answers
        after = on_ray.members()
    assert wrong == []
    replaced = {before[name]["pid"] for name in ("decode-math-0", "decode-math-1")}
    assert len(after) == len(before) == 4
    assert replaced.isdisjoint(told["pid"] for told in after.values())
    assert after["prefill-0"]["pid"] == before["prefill-0"]["pid"]
    on_ray.check_processes(3)
    stop(on_ray)


@pytest.mark.long
def test_moves_of_roles_outlive_their_launcher_and_a_lost_node(on_ray, expected):
    """The launcher is killed in the middle of one move, the node of the worker in the middle of another."""
    names = ("prefill-0", "decode-math-0", "decode-math-1")
    copy_other_weights(on_ray)
    on_ray.add_node()
    want_roles_that_move(on_ray)
    words = [sys.executable, "-m", "prefillshare", "launch", str(on_ray.file), "--port", str(on_ray.port)]
    with (on_ray.folder / "launch.log").open("w") as log:
        launcher = subprocess.Popen(words, env=environment(on_ray.folder, on_ray.address), stdout=log, stderr=log)
    try:
        places = {name: node_of(on_ray.wait_until_serving(*names)[name]["pid"], on_ray.nodes) for name in names}
        # With one prefill worker all wait for it, with one of the module for that one: under this load moves go on.
        with load(on_ray, length=2500, num_tokens=1):
            with calls(on_ray, [expected["code"]]) as wrong:
                assert on_ray.wait_for_order("moving").startswith("decode-math-")
                launcher.kill()
                launcher.wait()
                on_ray.wait_until_done(1)
            assert wrong == []
            lost = on_ray.wait_for_order("moving")
            os.kill(places[lost], signal.SIGKILL)
        on_ray.wait_until_serving(*names)
        assert [on_ray.ask(prompt) for prompt in PROMPTS] == expected["code"]
        on_ray.check_processes(3)
    finally:
        launcher.kill()
        launcher.wait()
    stop(on_ray)


@pytest.mark.long
def test_a_worker_that_moved_stays_what_it_is_whoever_starts_it_again(on_ray, expected):
    """Its actor is killed, the deployment is launched again, all get new weights: nobody has its old role, or twice."""
    names = ("prefill-0", "decode-math-0", "decode-math-1")
    copy_other_weights(on_ray)
    want_roles_that_move(on_ray)
    on_ray.launch()
    on_ray.wait_until_serving(*names)
    with load(on_ray, length=2500, num_tokens=1):
        on_ray.wait_until_done(1)
    members = on_ray.wait_until_serving(*names)
    moved = next(name for name in names[1:] if members[name]["group"]["role"] == "prefill")
    engine = members[moved]["pid"]
    actor_of(engine).kill()
    members = on_ray.wait_until_serving(*names, apart_from={moved: engine})
    assert members[moved]["group"]["role"] == "prefill"
    assert num_doing(members) == {"prefill": 2, "math": 1}
    before = on_ray.lives()
    on_ray.launch()
    assert on_ray.lives() == before
    copy_other_weights(on_ray, "math")
    with calls(on_ray, [expected["math"], expected["code"]]) as wrong:
        on_ray.launch()
    assert wrong == []
    assert num_doing(on_ray.members()) == {"prefill": 2, "math": 1}
    assert [on_ray.ask(prompt) for prompt in PROMPTS] == expected["math"]
    on_ray.check_processes(3)
    on_ray.run("scale", "math=1")
    assert num_doing(on_ray.members()) == {"prefill": 1, "math": 1}
    stop(on_ray)

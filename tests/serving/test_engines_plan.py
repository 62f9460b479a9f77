"""`share = false` in a disaggregated deployment: the module's workers are engines, planned beside the others."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest

from prefillshare.accelerators import assumed_gpus
from prefillshare.cli.launch_run import _describe_start
from prefillshare.cluster.plan import Group, Plan, revision_of
from prefillshare.config import load_deployment
from prefillshare.config.cluster import Cluster
from prefillshare.contract import (
    ADMISSION_VARIABLE,
    EAGER_VARIABLE,
    FINGERPRINT_VARIABLE,
    ROUTED_VARIABLE,
    UNSHARED_VARIABLE,
)
from prefillshare.errors import ConfigError, SimulationError
from prefillshare.modules.deployment import ResolvedDeployment, resolve
from prefillshare.modules.unshared import adapter_kv_sha256
from prefillshare.observe.document import Role
from prefillshare.serving.join.worker import choose_worker
from prefillshare.serving.launch import plan, plan_memory
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.plan.move import plan_beside, worker_of_kind
from prefillshare.serving.plan.processes import plan_workers
from prefillshare.serving.run.router_process import describe_worker
from prefillshare.serving.run.supervisor import Supervised, Supervisor
from tests.support.ordinary import TINY

FILE = f"""
name = "mixed"
topology = "disaggregated"

[prefill]
name = "tiny-base"
path = "{TINY / "base"}"

[[decode]]
name = "math"
kind = "lora"
path = "{TINY / "math"}"

[[decode]]
name = "own"
kind = "lora"
path = "{TINY / "naive" / "code"}"
share = false
replicas = 2

[router]
kv_events = true
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "mixed.toml"
    file.write_text(FILE)
    return file


def resolved(file: Path, *changes: str, gpus: str | None = None) -> ResolvedDeployment:
    return resolve(load_deployment(file, changes), None if gpus is None else assumed_gpus(gpus))


def flags(file: Path, *changes: str, gpus: str | None = None) -> dict[str, dict[str, str]]:
    commands = plan(resolved(file, *changes, gpus=gpus), LaunchOptions())
    return {name: dict(pairwise(command.argv)) | command.environment for name, command in commands.items()}


def test_its_workers_are_ordinary_engines_and_the_others_know_nothing_of_it(file: Path) -> None:
    found = flags(file)
    names = ["prefill-0", "decode-math-0", "decode-own-0", "decode-own-1"]
    assert [name for name in found if name != "router"] == names
    modes = [found[name].get("--disaggregation-mode") for name in names]
    assert modes == ["prefill", "decode", None, None]
    engine = found["decode-own-0"]
    assert engine["--lora-paths"] == f"own={TINY / 'naive' / 'code'}"
    assert engine["--max-loras-per-batch"] == "2"
    assert json.loads(engine[UNSHARED_VARIABLE]) == {"own": adapter_kv_sha256(TINY / "naive" / "code")}
    for variable in (UNSHARED_VARIABLE, ROUTED_VARIABLE):
        assert [name for name in names if variable in found[name]] == ["decode-own-0", "decode-own-1"]
    # Its answers are in its cache, and the router bounds its calls.
    assert EAGER_VARIABLE not in engine
    assert ADMISSION_VARIABLE not in engine
    assert EAGER_VARIABLE in found["prefill-0"]
    assert "zmq" in engine["--kv-events-config"]
    assert FINGERPRINT_VARIABLE not in engine


def test_with_a_store_it_has_a_host_tier_and_pages_there(file: Path) -> None:
    file.write_text(FILE + '[store]\nmemory = "64 MiB"\n')
    commands = plan(resolved(file), LaunchOptions())
    stored = [name for name, command in commands.items() if "--enable-hierarchical-cache" in command.argv]
    assert stored == ["prefill-0", "decode-own-0", "decode-own-1"]
    planned = {each.worker.name: describe_worker(each) for each in plan_workers(resolved(file), LaunchOptions())}
    assert [planned[name]["has_store"] for name in ("prefill-0", "decode-math-0", "decode-own-0")] == [
        True,
        False,
        True,
    ]


def test_it_has_the_settings_of_engine_and_of_its_module(file: Path) -> None:
    changes = (
        "engine.max_running_requests=8",
        "engine.decode.max_running_requests=4",
        "engine.prefill.chunked_prefill_size=1024",
        "decode.own.engine={threads=3}",
    )
    found = flags(file, *changes)
    running = {name: argv["--max-running-requests"] for name, argv in found.items() if name != "router"}
    assert running == {"prefill-0": "8", "decode-math-0": "4", "decode-own-0": "8", "decode-own-1": "8"}
    assert found["decode-own-0"]["OMP_NUM_THREADS"] == "3"
    assert found["decode-own-0"]["--chunked-prefill-size"] == "512"


def test_the_router_is_told_and_nobody_moves_it(file: Path) -> None:
    planned = {
        each.worker.name: each for each in plan_workers(resolved(file, "roles.follow_load=true"), LaunchOptions())
    }
    told = describe_worker(planned["decode-own-0"])
    assert (told["role"], told["module"], told["bootstrap_port"]) == ("engine", "own", None)
    assert [planned[name].can_move for name in ("prefill-0", "decode-math-0", "decode-own-0")] == [True, True, False]


def test_one_more_is_planned_beside_those_that_run(file: Path, tmp_path: Path) -> None:
    deployment = resolved(file, "roles.follow_load=true")
    running = plan_workers(deployment, LaunchOptions(), "key", tmp_path)
    for module, role, can_move in (("own", "engine", False), ("math", "decode", True)):
        worker = worker_of_kind(deployment, module, [each.worker.name for each in running])
        beside = plan_beside(deployment, running, worker, LaunchOptions(), tmp_path)
        assert (beside.worker.role, beside.can_move) == (role, can_move)
    assert choose_worker(deployment, "decode", "own", None).serves_whole_calls


def test_what_it_takes_is_planned(file: Path) -> None:
    budgets = {budget.name: budget for budget in plan_memory(resolved(file))}
    assert budgets["decode-own-0"].weight_bytes > budgets["prefill-0"].weight_bytes
    # Sizes may differ where nobody changes a role: an engine keeps its own.
    changes = ("roles.follow_load=true", "decode.own.engine.tensor_parallel_size=2")
    found = flags(file, *changes, gpus="8x80GB")
    assert [argv.get("--tp-size") for name, argv in found.items() if name != "router"] == [None, None, "2", "2"]


def test_what_shares_a_store_has_one_number_of_ranks(file: Path) -> None:
    file.write_text(FILE + '[store]\nmemory = "64 MiB"\n')
    with pytest.raises(ConfigError, match="tensor_parallel_size is 1 and 2 for prefill workers and modules with share"):
        load_deployment(file, ["decode.own.engine={tensor_parallel_size=2}"])
    load_deployment(file, ["decode.math.engine={tensor_parallel_size=2}"])


def test_limits_of_roles_are_not_for_it(file: Path) -> None:
    with pytest.raises(ConfigError, match="limits for 'own', which has share = false"):
        load_deployment(file, ["roles.modules={own={min=1, max=2}}"])
    load_deployment(file, ["roles.follow_load=true", "roles.modules={math={min=1, max=2}}"])


def test_full_weights_are_not_served_so(file: Path) -> None:
    file.write_text(
        FILE.replace('kind = "lora"\npath = "' + str(TINY / "naive"), 'kind = "full"\npath = "' + str(TINY))
    )
    with pytest.raises(ConfigError, match='share = false and kind = "full"'):
        load_deployment(file)


def test_it_is_not_simulated(file: Path) -> None:
    from prefillshare.cli.simulate_run import _load

    with pytest.raises(SimulationError, match="share = false for 'own'"):
        _load(file, ())


def test_a_launch_says_what_it_starts(file: Path) -> None:
    said = _describe_start(resolved(file))
    assert said == "1 prefill and 1 decode workers, and 2 engines of modules with share = false"


def test_on_a_cluster_its_members_are_replaced_when_it_begins_to_share(file: Path) -> None:
    def revisions(share: str, *changes: str) -> dict[str, str]:
        file.write_text(FILE.replace("share = false", share))
        config = load_deployment(file, changes)
        parts = Plan(
            config=replace(config, cluster=Cluster()),
            fingerprint="f",
            digests={"math": "m", "own": "o"},
            version="1",
            port=30000,
        )
        groups = {"prefill": Group(role="prefill")} | {
            name: Group(role="decode", module=name) for name in ("math", "own")
        }
        return {name: revision_of(parts, group) for name, group in groups.items()}

    own, shared = revisions("share = false"), revisions("accept_naive = true")
    assert [name for name in own if own[name] != shared[name]] == ["own"]
    changed = revisions("share = false", "engine.decode.max_running_requests=4")
    assert [name for name in own if own[name] != changed[name]] == ["math"]


@pytest.mark.parametrize(
    ("given_up", "lost"),
    [
        ((), None),
        (("engine",), None),
        (("decode",), None),
        (("prefill",), None),
        (("prefill", "decode"), None),
        (("engine", "prefill"), "prefill"),
        (("engine", "decode"), "decode"),
        (("router",), "router"),
    ],
)
def test_a_launch_ends_only_when_nothing_can_be_served(given_up: tuple[Role, ...], lost: Role | None) -> None:
    roles: list[Role] = ["prefill", "decode", "engine", "router"]
    assert set(roles) == set(get_args(Role))
    members = [
        Supervised(name=role, role=role, url="http://127.0.0.1:1", start=_never, is_ready=lambda: True)
        for role in roles
    ]
    for member in members:
        if member.role in given_up:
            member.state = "failed"
    assert Supervisor(members, print).lost_role() == lost


def _never() -> None:
    raise AssertionError("nothing is started here")

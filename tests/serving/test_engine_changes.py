"""`[engine.prefill]`, `[engine.decode]` and `engine` of a module: which worker gets what, and what is refused."""

from itertools import pairwise
from pathlib import Path

import pytest

from prefillshare.accelerators import assumed_gpus
from prefillshare.cluster.plan import Group, Plan, revision_of
from prefillshare.config import load_deployment
from prefillshare.config.cluster import Cluster
from prefillshare.errors import ConfigError
from prefillshare.modules.deployment import resolve
from prefillshare.serving.launch import plan, plan_memory, plan_warnings
from prefillshare.serving.options import LaunchOptions
from tests.support.engines import MODELS_DIR, TINY_AGENTS

TINY_PD = MODELS_DIR / "tiny-agents-pd.toml"
CHANGES = (
    "engine.max_running_requests=8",
    "engine.prefill={max_total_tokens=8192, chunked_prefill_size=1024}",
    "engine.decode.max_running_requests=4",
    "decode.math.engine={max_running_requests=2, threads=3, extra_args=['--log-level', 'warning']}",
)


def flags(file: Path, changes: tuple[str, ...], gpus: str | None = None) -> dict[str, dict[str, str]]:
    found = None if gpus is None else assumed_gpus(gpus)
    commands = plan(resolve(load_deployment(file, changes), found), LaunchOptions())
    return {name: dict(pairwise(command.argv)) | command.environment for name, command in commands.items()}


def test_each_worker_gets_what_its_role_and_module_say() -> None:
    found = flags(TINY_PD, CHANGES)
    running = {name: argv["--max-running-requests"] for name, argv in found.items()}
    assert running == {"prefill-0": "8", "decode-math-0": "2", "decode-tool-0": "4", "decode-code-0": "4"}
    assert (found["prefill-0"]["--max-total-tokens"], found["prefill-0"]["--chunked-prefill-size"]) == ("8192", "1024")
    assert found["decode-tool-0"]["--max-total-tokens"] == "65536"
    assert found["decode-math-0"]["OMP_NUM_THREADS"] == "3"
    assert [name for name, argv in found.items() if argv.get("--log-level") == "warning"] == ["decode-math-0"]


def test_the_plan_of_memory_has_the_same_sizes() -> None:
    budgets = {budget.name: budget.kv_tokens for budget in plan_memory(resolve(load_deployment(TINY_PD, CHANGES)))}
    assert (budgets["prefill-0"], budgets["decode-math-0"]) == (8192, 65536)


def test_workers_of_different_sizes_get_gpus_of_their_own() -> None:
    changes = ("engine.prefill.tensor_parallel_size=2", "engine.decode.mem_fraction_static=0.5")
    found = flags(TINY_PD, changes, "8x80GB")
    assert [argv.get("--tp-size") for argv in found.values()] == ["2", None, None, None]
    assert [argv["--base-gpu-id"] for argv in found.values()] == ["0", "2", "3", "4"]
    assert [argv.get("--mem-fraction-static") for argv in found.values()] == [None, "0.5", "0.5", "0.5"]
    resolved = resolve(load_deployment(TINY_PD, changes), assumed_gpus("8x80GB"))
    assert any("tensor_parallel_size 2 and decode workers another one" in text for text in plan_warnings(resolved))
    with pytest.raises(ConfigError, match="take 5 GPUs"):
        flags(TINY_PD, changes, "4x80GB")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("engine.decode.page_size=16",), r"page_size is 16 in \[engine.decode\] and \[engine\] does not say it"),
        (("engine.page_size=4", "decode.math.engine.page_size=16"), r"engine of module 'math' and \[engine\] says 4"),
        (("engine.prefill.context_length=99",), r"write context_length = 99 under \[engine\]"),
        (("engine.prefill.mem_fraction_static=3",), "engine of prefill: mem_fraction_static is 3"),
        (("decode.tool.engine.threads=0",), "engine of tool: threads is 0"),
        (("engine.decode.dtype=float32",), "there is no key 'dtype'"),
        (
            ("engine.prefill.tensor_parallel_size=2", "roles.follow_load=true"),
            "a worker that changes its role keeps its GPUs",
        ),
    ],
)
def test_what_would_not_work_is_refused(changes: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_deployment(TINY_PD, changes)


def test_a_size_that_serves_nothing_names_the_worker() -> None:
    with pytest.raises(ConfigError, match=r"decode-tool-0: max_total_tokens is 100"):
        flags(TINY_PD, ("decode.tool.engine.max_total_tokens=100",))


def test_one_engine_has_no_roles() -> None:
    for change in ("engine.prefill.threads=1", "engine.decode.threads=1", "decode.math.engine.threads=1"):
        with pytest.raises(ConfigError, match="one engine serves all"):
            load_deployment(TINY_AGENTS, (change,))


def test_equal_values_may_be_repeated() -> None:
    assert load_deployment(TINY_PD, ("engine.page_size=4", "engine.decode.page_size=4"))


def test_on_a_cluster_a_change_replaces_the_workers_that_it_is_for() -> None:
    def revisions(*changes: str) -> list[str]:
        config = load_deployment(TINY_PD, (*changes, "cluster={}"))
        assert config.cluster == Cluster()
        digests = {module.name: "same" for module in config.decode}
        made = Plan(config=config, fingerprint="f", digests=digests, version="v", port=1)
        groups = (Group(role="prefill"), Group(role="decode", module="math"), Group(role="decode", module="tool"))
        return [revision_of(made, group) for group in groups]

    before, after = revisions(), revisions("decode.math.engine.threads=3")
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False, True]

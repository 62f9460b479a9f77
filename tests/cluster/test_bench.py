"""A disaggregated deployment as `prefillshare bench` measures it: what was prefilled and moved, to the token."""

import asyncio

from prefillshare.bench.drivers.drive import drive
from prefillshare.bench.drivers.load import Load
from prefillshare.bench.systems.shared import describe_cluster
from prefillshare.bench.workloads.base import Shape
from prefillshare.bench.workloads.factory import make_workload
from tests.cluster.conftest import MODULES, Cluster

SESSIONS, TURNS = 2, 6
START, GROWTH, OUTPUT = 100, 12, 8


def test_prefilled_and_moved_tokens_are_exactly_accounted_for(cluster: Cluster) -> None:
    shape = Shape(num_sessions=SESSIONS, start_tokens=START, growth_tokens=GROWTH, output_tokens=(OUTPUT,), turns=TURNS)
    running = describe_cluster(cluster.running)
    run = asyncio.run(
        drive(
            running,
            make_workload("react", shape, MODULES),
            make_workload("react", Shape(num_sessions=1, start_tokens=30, turns=3, tags=("warm-up",)), MODULES),
            Load(kind="closed", value=1),
            seed=1,
            on_call=lambda call: None,
            timeout_s=60,
        )
    )
    assert [call.error for call in run.calls] == [None] * SESSIONS * TURNS
    prompts = [START + call * (GROWTH + OUTPUT) for call in range(TURNS)]
    # The prefill worker computes each token of a session once, x_n included: nothing there belongs to a decode module.
    assert run.prefilled_tokens == SESSIONS * prompts[-1]
    # A decode worker lacks what came since its last call, and its last x_n, which it had computed with its own weights.
    delta = len(MODULES) * (GROWTH + OUTPUT) + 1
    moved = [*prompts[: len(MODULES)], *[delta] * (TURNS - len(MODULES))]
    assert [call.handoff_tokens for call in run.calls] == moved * SESSIONS
    assert running.kv_token_bytes
    assert [call.handoff_bytes for call in run.calls] == [
        running.kv_token_bytes * tokens for tokens in moved
    ] * SESSIONS

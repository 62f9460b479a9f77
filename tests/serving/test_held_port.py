"""The router's port while its process is started again: clients wait there, as long as that is soon."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from prefillshare.cluster.plan import unmerged
from prefillshare.config import load_deployment
from prefillshare.errors import LaunchError
from prefillshare.modules.deployment import resolve
from prefillshare.serving.join.router import launch_router
from prefillshare.serving.machine.ports import check_address, free_port
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.run.cluster import RunningCluster
from prefillshare.serving.run.held_port import HeldPort
from prefillshare.serving.run.supervisor import MAX_HELD_S
from tests.support.engines import MODELS_DIR

HOST = "127.0.0.1"
WAIT_S = 120.0


@pytest.fixture
def router() -> Iterator[RunningCluster]:
    deployment = resolve(unmerged(load_deployment(MODELS_DIR / "tiny-agents-pd.toml")))
    running = launch_router(deployment, LaunchOptions(host=HOST, port=free_port(), admin_key="a"))
    try:
        yield running
    finally:
        running.kill()


def test_who_comes_while_the_router_is_started_again_waits_and_is_answered(router: RunningCluster) -> None:
    os.kill(router.pid, signal.SIGKILL)
    assert router.router.process is not None
    router.router.process.main.wait(timeout=WAIT_S)
    statuses: list[int] = []
    # Nobody has started another process yet.
    client = threading.Thread(
        target=lambda: statuses.append(httpx.get(f"{router.url}/v1/models", timeout=WAIT_S).status_code)
    )
    client.start()
    deadline = time.monotonic() + WAIT_S
    while client.is_alive():
        assert time.monotonic() < deadline
        router.step()
        time.sleep(0.05)
    assert statuses == [200]
    assert router.router.num_restarts == 1


def test_a_router_that_is_stopped_leaves_its_port(router: RunningCluster) -> None:
    router.stop(drain_s=0)
    check_address(HOST, int(router.url.rpartition(":")[2]))


def test_who_comes_long_before_the_next_start_is_refused(router: RunningCluster) -> None:
    while router.router._next_start <= MAX_HELD_S:
        router.router._count_death(lambda text: None, 0.0, "killed")
    assert router.router.process is not None
    router.router.process.kill()
    check_address(HOST, int(router.url.rpartition(":")[2]))


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server((HOST, 0)) as other:
        port = HeldPort(HOST, other.getsockname()[1])
        with pytest.raises(LaunchError, match="free it, or choose another port"):
            port.descriptor()


def test_a_name_may_mean_several_addresses_and_is_left_to_the_router() -> None:
    assert HeldPort("localhost", free_port()).descriptor() is None

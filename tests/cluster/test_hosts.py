"""A router, a prefill and a decode worker on three hosts: namespaces with networks and processes of their own.

Root only; elsewhere they are left out, and said to be.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address

import httpx
import pytest

from benchmarks.hosts.deployment import HostedDeployment, hosted
from benchmarks.hosts.machines import can_have_hosts, network_of_hosts
from benchmarks.hosts.watched import PORT, TRANSPORT_PORTS, greedy
from prefillshare.routing.http.sockets import GONE_S
from tests.support.engines import MODELS_DIR
from tests.support.marks import starts_engine
from tests.support.monitoring import read_state, worker_of
from tests.support.reference import Reference
from tests.support.sockets import tcp_listening_at
from tests.support.strangers import BROWSER, disturb, greet_everybody, overhear, refusing
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(not can_have_hosts(), reason="hosts are namespaces, which only root can make"),
    # Each host imports SGLang by itself: minutes, where the machine is busy.
    pytest.mark.timeout(1800),
]

NUM_TOKENS = 12
PATIENCE_S = 20.0
"""In which a server on a busy machine says something. Ports that never do cost all of it."""
BUSY_S = 300.0
"""In which a busy machine answers, or ends what it should."""
LISTEN_S = 0.7
"""In which a call or two are answered."""
PROMPTS = [[20 + (start * 37 + position * 31) % 900 for position in range(80 + 300 * start)] for start in range(4)]


@pytest.fixture(scope="module")
@starts_engine
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostedDeployment]:
    folder = tmp_path_factory.mktemp("hosts")
    file = folder / "deployment.toml"
    text = (MODELS_DIR / "tiny-agents-pd.toml").read_text().replace('path = "tiny/', f'path = "{MODELS_DIR}/tiny/')
    file.write_text(f"{text}\n[router]\nkv_events = true\n")
    with network_of_hosts("abc", folder) as hosts:
        workers = {"prefill-b": (hosts["b"], None), "tool-c": (hosts["c"], "tool")}
        with hosted(file, hosts["a"], workers) as deployment:
            yield deployment


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    reference = Reference(MODELS_DIR / "tiny" / "base", {"tool": MODELS_DIR / "tiny" / "tool"})
    return [reference.ask("tool", prompt, NUM_TOKENS).tokens for prompt in PROMPTS]


def answers(deployment: HostedDeployment) -> list[list[int]]:
    return [deployment.ask("tool", prompt, NUM_TOKENS)["output_ids"] for prompt in PROMPTS]


def test_answers_are_those_of_one_machine_and_kv_crosses_the_network(deployment, expected):
    assert answers(deployment) == expected
    with httpx.Client(base_url=deployment.url, timeout=BUSY_S) as http:
        handoff = worker_of(read_state(http), "prefill-b")["handoff"]
    assert handoff["calls"] >= len(PROMPTS)
    assert handoff["memory_calls"] == 0


def test_hosts_listen_at_their_address_only(deployment):
    for part in deployment.parts.values():
        found = {address for address, _ in tcp_listening_at(part.host.pid)}
        outside = {address for address in found if not ip_address(address).is_loopback}
        assert outside == {part.host.address}, part.name


def test_transport_listens_at_its_ports_only(deployment):
    """UCX and the messages of hand-offs. HTTP, KV events and the bootstrap server have ports of their own."""
    for name, num_others in {"prefill-b": 3, "tool-c": 2}.items():
        part = deployment.parts[name]
        ports = {port for address, port in tcp_listening_at(part.host.pid) if address == part.host.address}
        assert len(ports.intersection(TRANSPORT_PORTS)) >= 2, ports
        assert len(ports.difference(TRANSPORT_PORTS)) == num_others, ports


def test_strangers_get_nothing_and_break_nothing(deployment, expected):
    """They come to each port while calls are answered."""
    stop, seen = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            # A new prompt each time, of which the prefill worker tells routers.
            deployment.ask("tool", [20 + len(seen), *PROMPTS[1]], 1)
            seen.append(answers(deployment) == expected)

    client = threading.Thread(target=ask)
    client.start()
    try:
        own = {part.host.address: part.host.pid for part in deployment.parts.values()}
        replies_of = disturb(place for pid in own.values() for place in tcp_listening_at(pid) if place[0] in own)
        overheard = [place for place in replies_of if overhear(f"tcp://{place[0]}:{place[1]}", LISTEN_S)]
    finally:
        stop.set()
        client.join()
    assert seen
    assert all(seen)
    assert overheard == []
    assert len(replies_of) >= 8  # HTTP of three; bootstrap, events and hand-off of the prefill worker; UCX of two; ...
    told = {place: replies for place, replies in replies_of.items() if place[1] != PORT}
    for place, replies in told.items():
        assert not replies[BROWSER].startswith(b"HTTP/1.1 200"), place
        said = b"".join(replies.values())
        assert b"rank" not in said, place
        assert not greet_everybody(replies), f"{place} speaks ZeroMQ with everybody"
    assert len(refusing(told, PATIENCE_S)) == 3  # two workers, and the bootstrap server
    assert answers(deployment) == expected
    deployment.wait(deployment.is_whole, "all workers are up still")


def test_a_stream_whose_host_is_gone_ends_within_seconds(deployment):
    """Nobody closes the connection: the cable is cut."""
    body = greedy(PROMPTS[0], 3000, is_stream=True)
    host = deployment.parts["tool-c"].host
    with httpx.stream("POST", f"{deployment.url}/modules/tool/generate", json=body, timeout=BUSY_S) as reply:
        lines = (line for line in reply.iter_lines() if line)
        assert json.loads(next(lines).removeprefix("data: "))["output_ids"]
        host.unplug()
        unplugged = time.monotonic()
        assert '"error"' in list(lines)[-1]
    assert time.monotonic() - unplugged < GONE_S + 120
    deployment.wait(lambda: deployment.states().get("tool-c") != "up", "the router knows")


def test_a_command_that_is_killed_leaves_nothing_behind(deployment):
    part = deployment.parts["prefill-b"]
    assert deployment.find_orphans(part.host) == []
    os.kill(part.supervisor().pid, signal.SIGKILL)
    deployment.parts.pop("prefill-b").leave()
    wait_until(lambda: not deployment.find_orphans(part.host), lambda: deployment.find_orphans(part.host))

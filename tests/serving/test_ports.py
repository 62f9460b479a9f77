"""A bad address is said before anything slow starts."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import zmq

from prefillshare.errors import ConfigError, LaunchError
from prefillshare.serving.machine import ports as ports_module
from prefillshare.serving.machine.ports import check_address, client_host, free_port, release
from prefillshare.transport_ports import RANGE_VARIABLE
from sglang_patches.disaggregation.ports import limit_ports
from tests.support.port_ranges import neighbouring_ports


def test_a_free_port_passes() -> None:
    check_address("127.0.0.1", free_port())


def test_a_port_that_was_looked_at_is_no_other_program_s_until_the_server_listens() -> None:
    check_address("127.0.0.1", port := free_port())
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    check_address("127.0.0.1", port)
    with socket.create_server(("127.0.0.1", port)) as server, socket.create_connection(server.getsockname()):
        pass


@pytest.mark.parametrize(
    ("host", "port", "said"),
    [
        ("127.0.0.1", 0, "choose one from 1 to 65535"),
        ("127.0.0.1", 70000, "choose one from 1 to 65535"),
        ("no.such.host.invalid", 30000, "cannot be resolved"),
        ("192.0.2.1", 30000, "is not an address of this machine"),
    ],
)
def test_a_bad_address_is_named(host: str, port: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_address(host, port)


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(LaunchError, match=f"port {port} on 127.0.0.1 is in use"):
            check_address("127.0.0.1", port)


def test_clients_of_a_wildcard_address_use_the_loopback() -> None:
    assert client_host("0.0.0.0") == "127.0.0.1"
    assert client_host("::1") == "[::1]"
    assert client_host("10.0.0.7") == "10.0.0.7"


def test_free_ports_are_handed_out_once_and_lie_outside_of_the_ephemeral_range() -> None:
    low, high = (int(word) for word in Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = [free_port() for _ in range(64)]
    assert len(set(ports)) == len(ports)
    assert not any(low <= port <= high for port in ports)


def test_a_port_that_another_process_was_given_is_not_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = "from prefillshare.serving.machine.ports import free_port; print(free_port(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", ask], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        taken = int(other.stdout.readline())
        monkeypatch.setattr(ports_module, "usual_ports", lambda: [taken])
        with pytest.raises(LaunchError, match="no free port"):
            free_port()
        other.communicate("\n")
    assert free_port() == taken


def test_ports_of_kv_transport_are_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else transport, which takes any of them by itself, might have the port of a server that still starts."""
    among = neighbouring_ports(4)
    first, second, _, last = among
    monkeypatch.setenv(RANGE_VARIABLE, f"{second}-{last}")
    assert free_port(among=among) == first
    with pytest.raises(LaunchError, match=f"from {first} to {last} outside of UCX_TCP_PORT_RANGE={second}-{last}"):
        free_port(among=among)
    release([first])
    assert free_port(among=among) == first
    release([first])


def test_the_listener_of_hand_offs_leaves_a_held_port_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """ZeroMQ takes what a server holds until it listens there; this is how a server found its port in use."""
    held = free_port()
    check_address("127.0.0.1", held)  # as a worker's --port is
    neighbour = next(port for port in (held - 1, held + 1) if _can_listen(port))
    monkeypatch.setenv(RANGE_VARIABLE, f"{min(held, neighbour)}-{max(held, neighbour)}")
    with zmq.Context() as context, context.socket(zmq.PULL) as stock:
        stock.bind(f"tcp://127.0.0.1:{held}")
    for _ in range(5):
        with zmq.Context() as context, limit_ports(context).socket(zmq.PULL) as listener:
            assert listener.bind_to_random_port("tcp://127.0.0.1") == neighbour
    with zmq.Context() as context, limit_ports(context).socket(zmq.PULL) as listener, socket.socket() as other:
        other.bind(("127.0.0.1", neighbour))
        with pytest.raises(OSError, match=f"{RANGE_VARIABLE}=.* is free on 127.0.0.1"):
            listener.bind_to_random_port("tcp://127.0.0.1")


def _can_listen(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def test_a_chosen_port_of_the_ephemeral_range_is_no_outgoing_connections() -> None:
    """Ports of `[cluster]` may lie there."""
    port = free_port(among=range(40000, 40400))
    try:
        with socket.socket() as outgoing, pytest.raises(OSError, match="in use"):
            outgoing.bind(("127.0.0.1", port))
        with socket.create_server(("127.0.0.1", port)):
            pass
    finally:
        release([port])

"""A bad address is said before anything slow starts."""

import socket

import pytest

from prefillshare.errors import LaunchError
from prefillshare.serving.ports import check_address, client_host, free_port


def test_a_free_port_passes() -> None:
    check_address("127.0.0.1", free_port())


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
    with pytest.raises(LaunchError, match=said):
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

"""What is said when a Ray cluster does not take this machine."""

import socket
import threading

import pytest

from prefillshare.cluster.connection import _explain, connect, order_selectors
from prefillshare.errors import ServerError


@pytest.mark.parametrize(
    ("address", "reason", "said"),
    [
        ("head:6379", "Version mismatch: the cluster has Ray 2.60.0", "install the same Python and the same ray"),
        ("ray://head:10001", "Version mismatch: the cluster has Ray 2.60.0", "install the same Python"),
        ("ray://head:6379", "ray client connection timeout", "the port of the client server"),
        ("head:6379", "no node here", "run `ray start --address=head:6379` here"),
        ("head:6379", "Failed to connect", "(where the cluster wants a token: RAY_AUTH_MODE=token, and its file in"),
        ("ray://head:10001", "ray client connection timeout", "(where the cluster wants a token: RAY_AUTH_MODE=token"),
        (
            "head:6379",
            "RAY_AUTH_TOKEN_PATH is set but file cannot be opened: /x. Ensure that the token for the cluster is there",
            "cannot be opened: /x): let RAY_AUTH_TOKEN_PATH name the file",
        ),
        (
            "head:6379",
            "Token authentication is enabled but no authentication token was found. Ensure that the token is there",
            "no authentication token was found): let RAY_AUTH_TOKEN_PATH name the file",
        ),
    ],
)
def test_the_message_names_the_fix(address: str, reason: str, said: str) -> None:
    assert said in _explain(address, reason)


def test_a_machine_with_another_token_hears_of_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert "another token than this machine" in _explain("head:6379", "Failed to connect")


def test_a_node_with_fewer_members_of_the_group_is_wanted_first() -> None:
    labels = {"place": "behind"}
    assert order_selectors(labels, []) == [labels]
    assert order_selectors(labels, ["b", "a", "b"]) == [
        {"place": "behind", "ray.io/node-id": "!in(a,b)"},
        {"place": "behind", "ray.io/node-id": "!in(b)"},
        labels,
    ]


def test_a_server_that_is_no_ray_cluster_is_found_out_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(ServerError, match="is no Ray cluster: name the port of its head"):
            connect(f"127.0.0.1:{server.getsockname()[1]}")

"""A worker whose port for hand-offs or events is in use says so, in place of starting without it."""

import socket

import pytest

from sglang_patches.disaggregation.ports import check_is_free
from sglang_patches.patches.kv_event_socket import wrap_socket_setup


def test_a_port_that_somebody_listens_on_is_refused_with_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=rf"port {port} on 127.0.0.1.*in use.*launch again"):
            check_is_free("127.0.0.1", port)


def test_a_port_is_free_again_when_it_was_checked_or_let_go() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()  # the server closes first: its side waits for a minute
    check_is_free("127.0.0.1", port)
    check_is_free("127.0.0.1", port)


def test_a_port_of_kv_events_that_is_taken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from sglang.srt.disaggregation.kv_events import ZmqEventPublisher

    monkeypatch.setenv("SGLANG_HOST_IP", "127.0.0.1")
    publisher = ZmqEventPublisher.__new__(ZmqEventPublisher)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        publisher._pub, publisher._endpoint = None, f"tcp://*:{port}"
        with pytest.raises(OSError, match=rf"port {port} on 127.0.0.1, at which routers hear of KV events.*in use"):
            wrap_socket_setup(ZmqEventPublisher._socket_setup)(publisher)

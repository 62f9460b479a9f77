"""A prefill worker whose port for hand-offs is in use says so in place of starting without it."""

import socket

import pytest

from sglang_patches.disaggregation.ports import check_is_free


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

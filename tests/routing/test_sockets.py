"""A worker whose machine is gone is noticed by the kernel; tests/cluster/test_hosts.py cuts a real cable."""

import socket

from prefillshare.routing.http.sockets import GONE_S, open_socket


def test_the_kernel_asks_whether_the_other_end_is_there():
    [address, *_] = socket.getaddrinfo("127.0.0.1", 1, type=socket.SOCK_STREAM)
    with open_socket(address) as opened:
        assert opened.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        quiet_s, pause_s, num_probes = (opened.getsockopt(socket.IPPROTO_TCP, name) for name in names)
        assert quiet_s + pause_s * num_probes == GONE_S
        assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == GONE_S * 1000


def test_other_families_have_it_too():
    with socket.socket(socket.AF_INET6) as probe:
        address = (probe.family, probe.type, probe.proto, "", ("::1", 1))
    with open_socket(address) as opened:
        assert opened.family == socket.AF_INET6
        assert opened.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)

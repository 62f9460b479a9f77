"""Connections to workers that end when the worker's machine does.

A machine that lost its power or its cable closes nothing, and an answer may take minutes: without these, a call there
waits until its own time is up. The kernel asks the other kernel, not the worker, so a worker that is merely busy, or
stopped, keeps its calls.
"""

import socket
from typing import Any

_QUIET_S = 5
"""From when on a silent connection is asked whether its other end is there."""
_PAUSE_S = 3
_NUM_PROBES = 3
GONE_S = _QUIET_S + _PAUSE_S * _NUM_PROBES
"""A machine that has been silent for so long is gone."""


def open_socket(address: tuple[Any, ...]) -> socket.socket:
    """Return a socket for `address`, as `socket.getaddrinfo` tells it."""
    family, kind, protocol = address[:3]
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, _QUIET_S),
        (socket.TCP_KEEPINTVL, _PAUSE_S),
        (socket.TCP_KEEPCNT, _NUM_PROBES),
        # Where something was sent that nobody confirms, the kernel sends it again instead, for a quarter of an hour.
        (socket.TCP_USER_TIMEOUT, GONE_S * 1000),
    ):
        opened.setsockopt(socket.IPPROTO_TCP, option, value)
    return opened

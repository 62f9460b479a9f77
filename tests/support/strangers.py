"""Those who reach a deployment's ports and are no part of it: what they send, and what they get."""

import contextlib
import os
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import zmq

Address = tuple[str, int]

_NUM_STRANGERS = 16
_ANSWER_BYTES = 4096
_PATIENCE_S = 0.3
BROWSER = "a web browser's words"
SAID: dict[str, bytes] = {
    "nothing": b"",
    "noise": os.urandom(4096),
    "zeros": bytes(100_000),
    BROWSER: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "half a request": b"POST /route HTTP/1.1\r\nContent-Length: 100000\r\n\r\n{",
    "a large number": b"\xff" * 64,
    "ZeroMQ's greeting": b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48),
}
"""What strangers send, by what it is."""
_ZEROMQ_SIGNATURE = b"\xff"
_HANDOFF_MESSAGES = (
    [b"not SGLang's"],
    [b"ABORT", b"1", b"127.0.0.1", b"1"],
    [b"NixlMsgGuard", b"17"],
    [b"SHARED_KV", b"agent", b"{}"],
)


def disturb(addresses: Iterable[Address]) -> dict[Address, dict[str, bytes]]:
    """Send all of it to each address, to many at a time; return what came back, by address and what was said."""
    asked = list(addresses)
    with ThreadPoolExecutor(_NUM_STRANGERS) as pool:
        return dict(zip(asked, pool.map(_disturb, asked), strict=True))


def greet_everybody(replies: dict[str, bytes]) -> bool:
    """Whether a port that gave these replies speaks ZeroMQ with those who have no keys.

    Its greeting says so, while a web server may only repeat what it was sent.
    """
    return any(reply.startswith(_ZEROMQ_SIGNATURE) and b"NULL" in reply for reply in replies.values())


def refusing(addresses: Iterable[Address], patience_s: float) -> set[Address]:
    """Those of the addresses where a web browser is told that it may not; each gets so long to say so."""
    asked = list(addresses)
    with ThreadPoolExecutor(_NUM_STRANGERS) as pool:
        replies = pool.map(lambda address: _say(address, SAID[BROWSER], patience_s), asked)
        return {address for address, reply in zip(asked, replies, strict=True) if reply.startswith(b"HTTP/1.1 401 ")}


def _disturb(address: Address) -> dict[str, bytes]:
    return {name: _say(address, words) for name, words in SAID.items()} | {"hand-off messages": _push(address)}


def _say(address: Address, words: bytes, patience_s: float = _PATIENCE_S) -> bytes:
    with socket.create_connection(address, timeout=60) as stranger:
        stranger.settimeout(patience_s)
        try:
            stranger.sendall(words)
            return stranger.recv(_ANSWER_BYTES)
        except OSError:  # refused, or nothing came
            return b""


def _push(address: Address) -> bytes:
    """Speak ZeroMQ, as a worker would that has no keys."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as stranger:
        stranger.set(zmq.LINGER, 0)
        stranger.set(zmq.SNDTIMEO, int(_PATIENCE_S * 1000))
        stranger.connect(f"tcp://{address[0]}:{address[1]}")
        for message in _HANDOFF_MESSAGES:
            with contextlib.suppress(zmq.Again):  # nobody there speaks with it
                stranger.send_multipart(message)
    return b""


def overhear(endpoint: str, patience_s: float) -> bool:
    """Whether a subscriber without keys hears an event of a KV cache."""
    with zmq.Context() as context, context.socket(zmq.SUB) as stranger:
        stranger.subscribe(b"")
        stranger.connect(endpoint)
        # A web server's refusal is a message, too, to ZeroMQ's oldest form; events name themselves.
        return bool(stranger.poll(int(patience_s * 1000))) and any(
            b"Block" in part for part in stranger.recv_multipart()
        )

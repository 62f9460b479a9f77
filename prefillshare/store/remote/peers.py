"""One peer as this host sees it: what it says, checked, and whether it is worth asking."""

import secrets
import time
from typing import TypeVar

import httpx
import msgspec

from prefillshare.store.remote.messages import MAC_HEADER, MOST_BODY_BYTES
from prefillshare.store.remote.secret import Secret, is_same

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_CONNECT_S = 1.0

Answer = TypeVar("Answer", bound=msgspec.Struct)


class PeerError(Exception):
    """A peer gave no answer that can be believed."""


class Peer:
    """Questions to one peer; after a failure none is asked for a while, longer after each further one."""

    def __init__(self, url: str, secret: Secret) -> None:
        self.url = url
        self._secret = secret
        self._http = httpx.Client(base_url=url, trust_env=False)
        self._pause_s = 0.0
        self._asked_again_at = 0.0

    @property
    def is_worth_asking(self) -> bool:
        """Whether it has not just failed."""
        return time.monotonic() >= self._asked_again_at

    def fail(self) -> None:
        """Count a failure: ask nothing for a while.

        What else was asked before it and fails, too, is the same failure: many prompts ask at a time.
        """
        if not self.is_worth_asking:
            return
        self._pause_s = min(max(2 * self._pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        self._asked_again_at = time.monotonic() + self._pause_s

    def succeed(self) -> None:
        """The peer did what it should."""
        self._pause_s = 0.0

    def ask(self, path: str, question: msgspec.Struct, answer: type[Answer], deadline: float) -> Answer:
        """The answer to a question that has this `nonce`.

        Raises: PeerError.
        """
        body, nonce = msgspec.msgpack.encode(question), question.nonce  # type: ignore[attr-defined]
        try:
            code, reply = self._post(path, body, deadline)
            if not is_same(code, self._secret.of_reply(nonce, reply)):
                raise PeerError("its answer is not signed with this deployment's secret")
            return msgspec.msgpack.decode(reply, type=answer)
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            raise PeerError(f"{type(error).__name__} {error}") from error

    def _post(self, path: str, body: bytes, deadline: float) -> tuple[str, bytes]:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise PeerError("it did not answer in time")
        headers = {MAC_HEADER: self._secret.of_request(path, body)}
        timeout = httpx.Timeout(left_s, connect=min(_CONNECT_S, left_s))
        with self._http.stream("POST", path, content=body, headers=headers, timeout=timeout) as reply:
            if reply.status_code != 200:
                raise PeerError(f"it answered with status {reply.status_code}")
            return reply.headers.get(MAC_HEADER, ""), _read(reply, deadline)


def new_nonce() -> bytes:
    """What makes a question unlike every earlier one, so that no earlier answer fits."""
    return secrets.token_bytes(16)


def _read(reply: httpx.Response, deadline: float) -> bytes:
    """The body, unless it comes drop by drop or without end."""
    body = bytearray()
    for piece in reply.iter_bytes():
        body += piece
        if len(body) > MOST_BODY_BYTES or time.monotonic() > deadline:
            raise PeerError(f"its answer did not end after {len(body):,} bytes")
    return bytes(body)

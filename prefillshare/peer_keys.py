"""What the parts of one deployment prove to each other: a token over HTTP, keys over ZeroMQ, all made from one secret.

One launch makes its secret anew; routers and workers that join make it from the admin key, which all of them have. Read
by the router and by patched engines. Over ZeroMQ (CURVE), listeners and clients share one pair of keys: who does not
know the public one cannot even say hello, so that here it is as secret as the other. Everything said is encrypted.
"""

import hashlib
import hmac
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from prefillshare.errors import ConfigError

if TYPE_CHECKING:
    import zmq

    Sockets = zmq.Context[Any] | zmq.Socket[Any]


@dataclass(frozen=True, kw_only=True)
class PeerKeys:
    """Keys of one deployment."""

    secret: str
    """What all of them are made from; whoever has it is a part of the deployment."""

    @classmethod
    def of_admin_key(cls, admin_key: str) -> "PeerKeys":
        """Return the keys of parts that join each other with an admin key."""
        return cls(secret=_derive(admin_key, "deployment").hex())

    @cached_property
    def token(self) -> str:
        """What a client of a bootstrap server shows."""
        return _derive(self.secret, "bootstrap").hex()

    @cached_property
    def curve_pair(self) -> tuple[bytes, bytes]:
        """Public and secret key for ZeroMQ.

        Raises: ConfigError when ZeroMQ was built without CURVE.
        """
        import zmq
        from zmq.utils import z85

        if not can_encrypt():
            raise ConfigError("this pyzmq has no CURVE, by which workers know each other: install that of the lock")
        secret = z85.encode(_derive(self.secret, "zeromq"))
        return zmq.curve_public(secret), secret

    def is_token(self, authorization: str | None) -> bool:
        """Return whether an `Authorization` header holds the token."""
        shown = (authorization or "").encode("utf-8", "replace")
        return hmac.compare_digest(shown, f"Bearer {self.token}".encode())


def can_encrypt() -> bool:
    """Whether ZeroMQ has CURVE here."""
    import zmq

    return zmq.has("curve")


def secure_listener(sockets: "Sockets", keys: PeerKeys) -> None:
    """Let a socket, or those that a context makes from now on, listen to parts of the deployment only."""
    import zmq

    public, secret = keys.curve_pair
    _set(sockets, {zmq.CURVE_PUBLICKEY: public, zmq.CURVE_SECRETKEY: secret, zmq.CURVE_SERVER: 1})


def secure_client(sockets: "Sockets", keys: PeerKeys) -> None:
    """Let a socket, or those that a context makes from now on, speak to listeners of the deployment only."""
    import zmq

    public, secret = keys.curve_pair
    # First: what a context has for listeners would undo the key of theirs.
    sockets.setsockopt(zmq.CURVE_SERVER, 0)
    _set(sockets, {zmq.CURVE_PUBLICKEY: public, zmq.CURVE_SECRETKEY: secret, zmq.CURVE_SERVERKEY: public})


def _set(sockets: "Sockets", options: dict[int, int | bytes]) -> None:
    for option, value in options.items():
        sockets.setsockopt(option, value)


def _derive(secret: str, purpose: str) -> bytes:
    return hmac.digest(secret.encode(), f"prefillshare {purpose}".encode(), hashlib.sha256)

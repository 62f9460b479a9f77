"""Keys of a deployment on a cluster: from files on each node, never from an actor's arguments or a command line."""

import hashlib
import hmac
from pathlib import Path

from prefillshare.config import Cluster
from prefillshare.errors import ConfigError
from prefillshare.private_files import read_private

_MIN_LETTERS = 16
_HOW = "write one with `(umask 077; openssl rand -hex 32 > FILE)` and copy it to every node"


def read_admin_key(cluster: Cluster, deployment: str) -> str:
    """Return the key with which workers of `deployment` join its routers, the same on every node.

    It is made out of the cluster's token, so that who has this key has not that token.
    Raises: ConfigError when there is no token, or others than this user may read it.
    """
    if cluster.token_file is None:
        raise ConfigError(f"[cluster] has no token_file, from which workers make the key to join with: {_HOW}")
    token = _read_key_file(cluster.token_file, "token_file")
    return hmac.new(token.encode(), f"prefillshare workers of {deployment}".encode(), hashlib.sha256).hexdigest()


def read_api_key(cluster: Cluster) -> str | None:
    """Return the key that clients must send; None for an open server.

    Raises: ConfigError when its file cannot be used.
    """
    return None if cluster.api_key_file is None else _read_key_file(cluster.api_key_file, "api_key_file")


def _read_key_file(path: Path, key: str) -> str:
    text = read_private(path, f"{key} under [cluster],")
    if len(text) < _MIN_LETTERS or not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigError(
            f"{key} {path} under [cluster] has {len(text)} letters, and {_MIN_LETTERS} of plain text without spaces "
            f"are the least: {_HOW}"
        )
    return text

"""The secret that the hosts of a deployment share: who may ask, who may answer, and which bytes are believed.

It never travels. A sniffer sees pages, as on any network that is not encrypted, and can neither ask for others nor
change one.
"""

import hashlib
import hmac
import stat
from pathlib import Path

from prefillshare.errors import StoreError
from prefillshare.private_files import judge_private
from prefillshare.store.base import Bytes

LEAST_BYTES = 32
_MOST_BYTES = 4096


class Secret:
    """Makes and checks message authentication codes (HMAC-SHA256), each kind with a prefix of its own."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of_request(self, path: str, body: bytes) -> str:
        """The code of a question."""
        return self._code(b"request\0" + path.encode() + b"\0", body).hex()

    def of_reply(self, nonce: bytes, body: bytes) -> str:
        """The code of the answer to the question with this nonce, and to no other."""
        return self._code(b"reply\0" + nonce, body).hex()

    def of_page(self, nonce: bytes, identity: bytes, key: bytes, codec: int, data: Bytes) -> bytes:
        """The code of a page on its way: one of another chain, another model or an earlier question has another."""
        return self._code(b"page\0" + nonce + identity + key + codec.to_bytes(4, "little"), data.data)

    def _code(self, start: bytes, data: bytes | memoryview) -> bytes:
        code = hmac.new(self._key, start, hashlib.sha256)
        code.update(data)
        return code.digest()


def is_same(code: str | bytes, expected: str | bytes) -> bool:
    """Compare two codes without telling by the time it takes where they differ."""
    if isinstance(code, str) and isinstance(expected, str):
        code, expected = code.encode("utf-8", "replace"), expected.encode()
    assert isinstance(code, bytes)
    assert isinstance(expected, bytes)
    return hmac.compare_digest(code, expected)


def read_secret(path: Path) -> Secret:
    """Read the secret from a file that this user alone can read.

    Raises: StoreError.
    """
    try:
        found = path.stat()
        key = path.read_bytes()[:_MOST_BYTES] if stat.S_ISREG(found.st_mode) else b""  # a pipe would never end
    except OSError as error:
        raise StoreError(
            f"secret_file {path} under [store] cannot be read ({error.strerror}): {_HOW_TO_MAKE.format(path)}"
        ) from error
    if not stat.S_ISREG(found.st_mode):
        raise StoreError(f"secret_file {path} under [store] is no file: name one, or {_HOW_TO_MAKE.format(path)}")
    if problem := judge_private(found):
        raise StoreError(
            f"secret_file {path} under [store] {problem}, and whoever reads it can ask for what users wrote: chown it "
            f"to you and chmod 600 {path}"
        )
    if len(key) < LEAST_BYTES:
        raise StoreError(
            f"secret_file {path} under [store] has {len(key)} bytes, and {LEAST_BYTES} are the least: "
            f"{_HOW_TO_MAKE.format(path)}"
        )
    return Secret(key)


_HOW_TO_MAKE = "make it with `(umask 077; head -c 32 /dev/urandom > {0})` and copy it to every host"

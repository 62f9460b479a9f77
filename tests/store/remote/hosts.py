"""Hosts on one machine: each a folder in memory, a store in it, and the process that shares it."""

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from prefillshare.serving.machine.ports import free_port
from prefillshare.store import KvStore, StoreIdentity, StoreSettings
from prefillshare.store.remote.client import FetchClient
from prefillshare.store.remote.process import SharingProcess
from tests.store.stores import identity, settings

TIMEOUT_S = 20.0


def free_address() -> str:
    """An address of the loopback interface that nobody listens at."""
    return f"127.0.0.1:{free_port()}"


def secret_file(folder: Path, name: str = "secret") -> Path:
    """A new secret in a file that only this user can read."""
    file = folder / name
    file.touch(mode=0o600)
    file.write_bytes(secrets.token_bytes(32))
    return file


class Host:
    """A host with a store, which shares it or fetches from peers."""

    def __init__(self, folder: Path, secret: Path, kv_dtype: str = "float32", **changed: object) -> None:
        self.settings: StoreSettings = settings(folder, secret_file=secret, **changed)
        self.identity: StoreIdentity = identity(kv_dtype=kv_dtype)
        self.store = KvStore.attach(self.settings, self.identity)
        self._log = folder / "log"
        self.process = SharingProcess(self.settings, self._log)
        self._client = FetchClient(self.settings, self.identity)

    @property
    def log(self) -> str:
        """What its process has said."""
        return self._log.read_text()

    def fetch(self, keys: Sequence[bytes], prefix: Sequence[bytes] = (), timeout_s: float = TIMEOUT_S) -> int:
        """Fetch pages from peers, as an engine does."""
        return self._client.begin(keys, prefix, timeout_s).result(timeout_s + 120)

    def close(self) -> None:
        """End what runs."""
        self._client.close()
        self.process.end()
        self.store.close()


@contextlib.contextmanager
def host(folder: Path, secret: Path, kv_dtype: str = "float32", **changed: object) -> Iterator[Host]:
    """A host in a folder of its own."""
    folder.mkdir(exist_ok=True)
    running = Host(folder, secret, kv_dtype, **changed)
    try:
        yield running
    finally:
        running.close()

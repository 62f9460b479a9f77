"""An engine's way to the pages of other hosts: its own host's process fetches them, threads of the engine wait.

Nothing here runs where the store has no peers.
"""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import msgspec

from prefillshare.store.identity import StoreIdentity
from prefillshare.store.remote.addresses import socket_path
from prefillshare.store.remote.messages import FETCH_PATH, Fetch, Fetched
from prefillshare.store.settings import StoreSettings

_NUM_THREADS = 8
_REPLY_S = 10.0
"""How long after its time a fetch may end: the batch that it has begun."""
_PAUSE_S = 1.0

logger = logging.getLogger(__name__)


class FetchClient:
    """Asks for pages; what fails is a fetch of nothing."""

    def __init__(self, settings: StoreSettings, identity: StoreIdentity) -> None:
        self._identity = identity.digest()
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="fetch")
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(socket_path(settings))), base_url="http://store", trust_env=False
        )
        self._asked_again_at = 0.0
        self._is_told = False
        self.num_pages = 0
        """Pages that came."""

    def begin(self, keys: Sequence[bytes], prefix: Sequence[bytes], timeout_s: float) -> "Future[int]":
        """Begin to fetch pages, which continue those of `prefix`; the future has how many came, from the first on."""
        asked = Fetch(identity=self._identity, prefix=list(prefix), keys=list(keys), timeout_s=timeout_s)
        try:
            return self._threads.submit(self._fetch, asked)
        except RuntimeError as error:  # no more threads for this user: the scheduler that asks must not end of it
            self._tell(error)
            nothing: Future[int] = Future()
            nothing.set_result(0)
            return nothing

    def close(self) -> None:
        """End the threads; what they wait for is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._http.close()

    def _fetch(self, asked: Fetch) -> int:
        if time.monotonic() < self._asked_again_at:
            return 0
        try:
            reply = self._http.post(
                FETCH_PATH, content=msgspec.msgpack.encode(asked), timeout=asked.timeout_s + _REPLY_S
            )
            reply.raise_for_status()
            num_pages = msgspec.msgpack.decode(reply.content, type=Fetched).num_pages
        except (httpx.HTTPError, msgspec.DecodeError, RuntimeError) as error:
            self._asked_again_at = time.monotonic() + _PAUSE_S
            self._tell(error)
            return 0
        self.num_pages += num_pages
        return num_pages

    def _tell(self, error: Exception) -> None:
        if not self._is_told:
            self._is_told = True
            logger.warning("pages of other hosts cannot be fetched, and are computed here: %s", error)

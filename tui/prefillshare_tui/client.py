"""Reads a deployment's state over HTTP."""

from typing import Protocol

import httpx

from prefillshare_tui.errors import FeedError, ForeignServerError, RefusedError, UnreachableError
from prefillshare_tui.parse import parse
from prefillshare_tui.snapshot import Snapshot

_DEFAULT_PORT = 30000
DEFAULT_URL = f"http://127.0.0.1:{_DEFAULT_PORT}"
STATE_PATH = "/deployment/state"
_LAST_PORT = 65535
_CONNECT_TIMEOUT_S = 3.0
_KEEP_ALIVE_S = 2.0
_MAX_REPLY_BYTES = 64 << 20


class Source(Protocol):
    """Where snapshots come from; tests put their own here."""

    url: str

    async def fetch(self) -> Snapshot:
        """Return the state now. Raises: FeedError."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class StateClient:
    """A deployment at an address."""

    def __init__(self, url: str = DEFAULT_URL, api_key: str | None = None, timeout_s: float = 10.0) -> None:
        self.url = clean_url(url)
        self._timeout_s = timeout_s
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        timeout = httpx.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S)
        # No proxy from the environment: a deployment is mostly on this machine or behind a tunnel.
        # Connections are closed before the server does it, which would look like an answer broken off.
        limits = httpx.Limits(keepalive_expiry=_KEEP_ALIVE_S)
        self._http = httpx.AsyncClient(
            base_url=self.url, headers=headers, timeout=timeout, limits=limits, trust_env=False
        )

    async def fetch(self) -> Snapshot:
        """Return the state now.

        Raises: FeedError with the reason and the fix.
        """
        return parse(await self.fetch_raw(), self.url)

    async def fetch_raw(self) -> bytes:
        """Return the state as it was sent.

        Raises: FeedError with the reason and the fix.
        """
        try:
            reply = await self._http.get(STATE_PATH)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        if reply.status_code != 200:
            raise self._refusal(reply.status_code)
        if len(reply.content) > _MAX_REPLY_BYTES:
            raise ForeignServerError(f"{self.url} sent {len(reply.content)} bytes of state: correct --url")
        return reply.content

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def _unreachable(self, error: httpx.HTTPError) -> FeedError:
        if isinstance(error, httpx.ConnectError):
            port = httpx.URL(self.url).port
            where = "" if port in (None, _DEFAULT_PORT) else f" --port {port}"
            return UnreachableError(f"no server answers at {self.url}: start one with `prefillshare launch{where}`")
        if isinstance(error, httpx.TimeoutException):
            return UnreachableError(
                f"{self.url} did not answer within {self._timeout_s:g} s: look at its log and its machine's load"
            )
        return UnreachableError(f"{self.url} broke off its answer ({type(error).__name__}): look at its log")

    def _refusal(self, status: int) -> FeedError:
        if status == 403:
            return RefusedError(
                f"{self.url} shows its numbers to its operator, and the key is another one's: give the launch's with "
                "--api-key or PREFILLSHARE_API_KEY"
            )
        if status == 401:
            return RefusedError(f"{self.url} wants an API key: give it with --api-key or PREFILLSHARE_API_KEY")
        if status in (404, 405):
            return ForeignServerError(
                f"{self.url} answers, but has no {STATE_PATH}: it is no PrefillShare deployment (or an older one), "
                "correct --url"
            )
        return UnreachableError(f"{self.url} answered {status}: look at its log")


def clean_url(url: str) -> str:
    """Return `url` with a scheme and without a path.

    Raises: ForeignServerError when it is no address.
    """
    text = url.strip() if "://" in url else f"http://{url.strip()}"
    if not _is_server_address(text):
        raise ForeignServerError(f"url {url!r} is not an address: use one such as {DEFAULT_URL}")
    return text.rstrip("/").removesuffix("/v1")


def _is_server_address(text: str) -> bool:
    try:
        address = httpx.URL(text)
    except httpx.InvalidURL:
        return False
    # httpx escapes what no host may have.
    has_host = bool(address.host) and "%" not in address.host
    has_port = address.port is None or 1 <= address.port <= _LAST_PORT
    return address.scheme in ("http", "https") and has_host and has_port

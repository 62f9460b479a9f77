"""HTTP to servers of our own: never through a proxy that the environment names for the internet."""

import os
import ssl
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.request import getproxies_environment

import httpx

from prefillshare.contract import LAST_PORT

DEFAULT_PORT = 30000
_EXCEPTIONS = ("no_proxy", "NO_PROXY")

Trusted = ssl.SSLContext | bool
"""Certificates to trust; True for the usual ones, those of SSL_CERT_FILE among them."""


def direct_client(*, verify: Trusted = True, **options: Any) -> httpx.Client:
    """A client with the options of `httpx.Client`."""
    # With a transport of its own, httpx looks at no proxy variable, but still at SSL_CERT_FILE.
    return httpx.Client(transport=httpx.HTTPTransport(verify=verify), **options)


def get(url: str, *, verify: Trusted = True, **options: Any) -> httpx.Response:
    """One GET; the options are those of `httpx.Client.get`."""
    with direct_client(verify=verify) as client:
        return client.get(url, **options)


def post(url: str, **options: Any) -> httpx.Response:
    """One POST; the options are those of `httpx.Client.post`."""
    with direct_client() as client:
        return client.post(url, **options)


def read_lines(reply: httpx.Response) -> Iterator[bytes]:
    """Lines of a stream, as they come. An answer may hold what httpx, as Python, takes for the end of a line, too."""
    rest = b""
    for piece in reply.iter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    if rest:
        yield rest


def parse_server(url: str) -> httpx.URL | None:
    """The address of a server; None when no server can have it."""
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL:
        return None
    # httpx escapes what no host may have.
    has_host = bool(address.host) and "%" not in address.host
    has_port = address.port is None or 1 <= address.port <= LAST_PORT
    return address if address.scheme in ("http", "https") and has_host and has_port else None


def except_from_proxies(url: str) -> None:
    """Let libraries in this process that look for proxies themselves, at each call, reach the server at `url` without.

    Effects: where the environment names a proxy, the server's host joins no_proxy.
    """
    host = httpx.URL(url).host
    if host and getproxies_environment():
        os.environ.update(proxy_exceptions([host]))


def launch_line(url: str) -> str:
    """The command that would serve at `url`, as far as a port can tell."""
    port = httpx.URL(url).port
    return "prefillshare launch" if port in (None, DEFAULT_PORT) else f"prefillshare launch --port {port}"


def proxy_exceptions(hosts: Iterable[str]) -> dict[str, str]:
    """Variables under which libraries that look for proxies themselves reach `hosts` without one.

    What the user excepts stays excepted, and whatever else is downloaded goes through the proxy.
    """
    spellings = [os.environ.get(name, "") for name in _EXCEPTIONS]
    if any(text.strip() == "*" for text in spellings):
        return dict.fromkeys(_EXCEPTIONS, "*")
    known = [host.strip() for text in spellings for host in text.split(",") if host.strip()]
    return dict.fromkeys(_EXCEPTIONS, ",".join(dict.fromkeys([*known, *hosts])))

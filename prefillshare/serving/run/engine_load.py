"""What an engine, or a router, has to do."""

from collections.abc import Callable
from typing import Any

import httpx

from prefillshare import direct
from prefillshare.serving.options import auth_header

_TIMEOUT_S = 2.0


def count_running(url: str, api_key: str | None) -> int | None:
    """Return how many requests the engine at `url` works on; 0 when there is none to ask or it does not say, and None
    when it does not answer in time, which one that works on requests may do as well.
    """
    return _count(f"{url}/v1/loads?include=core", api_key, _count_in_loads)


def count_calls(url: str, api_key: str | None) -> int | None:
    """Return how many calls the router at `url` works on, as :func:`count_running` does it of an engine."""
    return _count(f"{url}/router/state", api_key, lambda told: int(told["running"]))


def _count_in_loads(told: Any) -> int:
    return sum(load.get("num_running_reqs", 0) + load.get("num_waiting_reqs", 0) for load in told["loads"])


def _count(url: str, api_key: str | None, read: Callable[[Any], int]) -> int | None:
    try:
        reply = direct.get(url, headers=auth_header(api_key), timeout=_TIMEOUT_S)
        return read(reply.json()) if reply.status_code == 200 else 0
    except httpx.TimeoutException:
        return None
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return 0

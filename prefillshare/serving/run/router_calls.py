"""What supervisors ask of routers and tell them, about workers that move."""

from collections.abc import Mapping

import httpx

from prefillshare.direct import direct_client
from prefillshare.serving.options import auth_header

_TIMEOUT_S = 2.0


def call_router(
    url: str,
    admin_key: str | None,
    method: str,
    path: str,
    body: Mapping[str, object] | None = None,
    *,
    timeout_s: float = _TIMEOUT_S,
) -> httpx.Response | None:
    """Return what the router at `url` answers; None when it does not."""
    try:
        with direct_client(headers=auth_header(admin_key), timeout=timeout_s) as client:
            return client.request(method, url + path, json=body)
    except httpx.HTTPError:
        return None

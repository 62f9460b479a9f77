"""What an engine has to do."""

import httpx

from prefillshare import direct
from prefillshare.serving.options import auth_header

_TIMEOUT_S = 2.0


def count_running(url: str, api_key: str | None) -> int | None:
    """Return how many requests the engine at `url` works on; 0 when there is none to ask or it does not say, and None
    when it does not answer in time, which one that works on requests may do as well.
    """
    try:
        reply = direct.get(
            f"{url}/v1/loads", params={"include": "core"}, headers=auth_header(api_key), timeout=_TIMEOUT_S
        )
        loads = reply.json()["loads"] if reply.status_code == 200 else []
    except httpx.TimeoutException:
        return None
    except (httpx.HTTPError, ValueError, KeyError):
        return 0
    return sum(load.get("num_running_reqs", 0) + load.get("num_waiting_reqs", 0) for load in loads)

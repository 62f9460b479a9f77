"""`/health`, `/health_generate`, `/flush_cache`, `/router/state`: the state of the router and its workers."""

from typing import Any

from aiohttp import web

from prefillshare.routing.gateway import Gateway
from prefillshare.routing.web.keys import GATEWAY
from prefillshare.routing.web.replies import json_reply

_FLUSH_TIMEOUT_S = 30.0
_GENERATE_TIMEOUT_S = 25.0  # SGLang gives up after 20 s itself


async def health(request: web.Request) -> web.Response:
    """200 while calls can be answered: a prefill worker is up, and so is a replica of each module."""
    gateway = request.app[GATEWAY]
    missing = _missing(gateway)
    if gateway.is_draining:
        return json_reply({"status": "stopping"}, status=503)
    if missing["prefill"] or not missing["modules_up"]:
        return json_reply({"status": "unavailable", "missing": missing["names"]}, status=503)
    return json_reply({"status": "degraded" if missing["names"] else "ok", "missing": missing["names"]})


async def health_generate(request: web.Request) -> web.Response:
    """Let every worker make a token; 200 when all could."""
    replies = await request.app[GATEWAY].ask_all("/health_generate", method="GET", timeout_s=_GENERATE_TIMEOUT_S)
    is_well = bool(replies) and all(reply["status"] == 200 for reply in replies.values())
    return json_reply({"workers": replies}, status=200 if is_well else 503)


async def flush_cache(request: web.Request) -> web.Response:
    """Flush the caches of all workers, and forget what they held."""
    gateway = request.app[GATEWAY]
    replies = await gateway.ask_all("/flush_cache", method="POST", timeout_s=_FLUSH_TIMEOUT_S)
    for worker_id, reply in replies.items():
        if reply["status"] == 200:
            gateway.chooser.index.forget(worker_id)
            gateway.observer.events.tell("flush", worker_id, "its prefix cache was emptied")
    is_done = all(reply["status"] == 200 for reply in replies.values())
    return json_reply({"workers": replies}, status=200 if is_done else 400)


async def router_state(request: web.Request) -> web.Response:
    """Numbers for people and dashboards."""
    gateway = request.app[GATEWAY]
    index = gateway.chooser.index
    return json_reply(
        {
            "policy": gateway.settings.router.policy,
            "counters": gateway.proxy.counters.as_dict(),
            "running": gateway.proxy.num_running,
            "queued": {name: gateway.admission.num_queued(name) for name in gateway.pool.modules()},
            "sessions": {"pinned": len(gateway.sessions), "repins": gateway.sessions.num_repins},
            "prefix_index": {"bytes": index.num_bytes, "max_bytes": index.max_bytes, "nodes": index.num_nodes},
            "bytes_per_token": round(gateway.chooser.bytes_per_token, 3),
            "workers": [_worker_state(worker) | {"held_bytes": index.held_bytes(worker.id)} for worker in gateway.pool],
        }
    )


def _worker_state(worker: Any) -> dict[str, Any]:
    if worker.spec.role == "decode":
        return worker.summary()
    return worker.summary() | {
        "prefill_tokens_per_s": round(worker.speed.tokens_per_s, 1),
        "pending_tokens": round(worker.speed.pending_tokens),
    }


def _missing(gateway: Gateway) -> dict[str, Any]:
    is_prefill_up = any(worker.is_available for worker in gateway.pool.prefill())
    modules = gateway.pool.modules()
    down = [name for name in modules if not any(worker.is_available for worker in gateway.pool.replicas(name))]
    return {
        "prefill": not is_prefill_up,
        "modules_up": len(modules) > len(down),
        "names": ([] if is_prefill_up else ["prefill"]) + down,
    }

"""`/health`, `/health_generate`, `/flush_cache`, `/router/state`: the state of the router and its workers."""

from dataclasses import dataclass
from typing import Any

from aiohttp import web

from prefillshare.routing.parts import Parts
from prefillshare.routing.peers.forward import Peers
from prefillshare.routing.web.keys import GATEWAY
from prefillshare.routing.web.replies import json_reply
from prefillshare.routing.workers.pool import WorkerPool
from prefillshare.routing.workers.worker import Worker

_FLUSH_TIMEOUT_S = 30.0
_GENERATE_TIMEOUT_S = 25.0  # SGLang gives up after 20 s itself


async def show_health(request: web.Request) -> web.Response:
    """200 while calls can be answered: a prefill worker is up, and so is a replica of some module, or an engine is."""
    gateway = request.app[GATEWAY]
    if gateway.is_draining:
        return json_reply({"status": "stopping"}, status=503)
    missing = _find_missing(gateway.parts.pool)
    if not missing.can_answer:
        return json_reply({"status": "unavailable", "missing": missing.names}, status=503)
    return json_reply({"status": "degraded" if missing.names else "ok", "missing": missing.names})


async def try_generating(request: web.Request) -> web.Response:
    """Let every worker make a token; 200 when all could."""
    parts = request.app[GATEWAY].parts
    replies = await parts.client.ask_all(parts.pool, "/health_generate", method="GET", timeout_s=_GENERATE_TIMEOUT_S)
    is_well = bool(replies) and all(reply["status"] == 200 for reply in replies.values())
    return json_reply({"workers": replies}, status=200 if is_well else 503)


async def flush_cache(request: web.Request) -> web.Response:
    """Flush the caches of all workers, and forget what they held."""
    gateway = request.app[GATEWAY]
    parts = gateway.parts
    replies = await parts.client.ask_all(parts.pool, "/flush_cache", method="POST", timeout_s=_FLUSH_TIMEOUT_S)
    parts.chooser.forget_store()
    flushed = [worker_id for worker_id, reply in replies.items() if reply["status"] == 200]
    for worker_id in flushed:
        parts.chooser.index.forget(worker_id)
        parts.observer.events.tell("flush", worker_id, "its prefix cache was emptied")
    if gateway.peers is not None:
        await gateway.peers.exchange.tell_flushed(flushed)
    is_done = all(reply["status"] == 200 for reply in replies.values())
    return json_reply({"workers": replies}, status=200 if is_done else 400)


async def show_router_state(request: web.Request) -> web.Response:
    """Numbers for people and dashboards."""
    gateway = request.app[GATEWAY]
    parts = gateway.parts
    index = parts.chooser.index
    return json_reply(
        {
            "policy": parts.settings.router.policy,
            "counters": gateway.proxy.counters.as_dict(),
            "running": gateway.proxy.num_running,
            "queued": {name: parts.admission.num_queued(name) for name in parts.pool.modules()},
            "sessions": {"pinned": len(parts.sessions), "repins": parts.sessions.num_repins},
            "prefix_index": {"bytes": index.num_bytes, "max_bytes": index.max_bytes, "nodes": index.num_nodes},
            "bytes_per_token": round(parts.chooser.bytes_per_token, 3),
            "workers": [_worker_state(parts, worker) for worker in parts.pool],
            **({"routers": _routers_state(gateway.peers)} if gateway.peers else {}),
        }
    )


def _worker_state(parts: Parts, worker: Worker) -> dict[str, Any]:
    state: dict[str, Any] = {**worker.summary()}
    if worker.spec.role == "prefill":
        state["prefill_tokens_per_s"] = round(worker.speed.tokens_per_s, 1)
        state["pending_tokens"] = round(worker.speed.pending_tokens)
    state["held_bytes"] = parts.chooser.index.held_bytes(worker.id)
    return state


def _routers_state(peers: Peers) -> dict[str, Any]:
    others = [{"url": peer.address, "state": peer.state, "reason": peer.reason} for peer in peers]
    return {"forwarded": peers.num_forwarded, "others": others}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Missing:
    names: list[str]
    """`prefill`, and modules, of which no worker is up."""
    can_answer: bool
    """Whether calls of some module can be answered all the same."""


def _find_missing(pool: WorkerPool) -> _Missing:
    is_prefill_up = any(worker.is_available for worker in pool.prefill())
    modules = pool.modules()
    down = [name for name in modules if not any(worker.is_available for worker in pool.replicas(name))]
    return _Missing(
        names=([] if is_prefill_up else ["prefill"]) + down,
        can_answer=any(map(pool.can_answer, modules)),
    )

"""`/deployment/state`, `/metrics`: the whole deployment in numbers.

The router sees calls, queues, cache hits (the prefill leg's report) and the time of a whole call; generated tokens and
the time between them only the decode workers see, since answers pass through unread: these are asked each time.
"""

import asyncio
import os

from aiohttp import web

from prefillshare.contract import RESTARTS_VARIABLE
from prefillshare.observe.document import DeploymentState, RoleMovesState, WorkerState, no_tokens, part_of
from prefillshare.observe.exposition import CONTENT_TYPE, exposition
from prefillshare.observe.relabel import merge_texts
from prefillshare.observe.state import ModuleFacts, deployment_state, worker_state
from prefillshare.routing.gateway import Gateway
from prefillshare.routing.parts import Parts
from prefillshare.routing.peers.peer import Peer
from prefillshare.routing.web.keys import GATEWAY
from prefillshare.routing.web.replies import json_reply


async def show_state(request: web.Request) -> web.Response:
    """What a dashboard shows."""
    return json_reply(await _ask_state(request.app[GATEWAY]))


async def show_metrics(request: web.Request) -> web.Response:
    """The same for Prometheus, then SGLang's metrics of every worker that answers."""
    gateway = request.app[GATEWAY]
    parts = gateway.parts
    state, texts = await asyncio.gather(_ask_state(gateway), parts.reports.ask_metrics(parts.pool))
    return web.Response(body=exposition(state) + merge_texts(texts).encode(), headers={"Content-Type": CONTENT_TYPE})


async def _ask_state(gateway: Gateway) -> DeploymentState:
    parts = gateway.parts
    workers = await parts.reports.ask_states(parts.pool)
    state = deployment_state(
        parts.observer,
        name=parts.settings.deployment or parts.settings.base_model,
        topology="disaggregated",
        prefill_module=parts.settings.base_model,
        modules=[_module_facts(parts, name) for name in parts.pool.modules()],
        workers=[*workers, _router_entry(gateway), *map(_peer_entry, gateway.peers or ())],
        repins=parts.sessions.num_repins,
    )
    counters = gateway.proxy.counters
    told: DeploymentState = {**state, "refusals": counters.refused, "retries": counters.retries}
    if gateway.peers is not None:
        told["forwarded"] = gateway.peers.num_forwarded
    if gateway.tenants is not None:
        told["tenants"] = gateway.tenants.as_dict(parts.reports.held())
    if gateway.conductor is not None:
        told["role_moves"] = part_of(RoleMovesState, gateway.conductor.counts)
    return told if gateway.eager is None else {**told, "eager_jobs": gateway.eager.as_dict()}


def _module_facts(parts: Parts, module: str) -> ModuleFacts:
    is_lora = any(worker.is_adapter for worker in parts.pool.replicas(module))
    return ModuleFacts(
        name=module,
        kind="lora" if is_lora else "full",
        is_prefill_module=False,
        queued=parts.admission.num_queued(module),
        warning=parts.pool.warning(module),
    )


def _peer_entry(peer: Peer) -> WorkerState:
    """Return the entry of another router, which tells of its calls itself: here it is only seen to be there."""
    return worker_state(
        id=peer.name,
        role="router",
        module=None,
        url=peer.address,
        pid=None,
        state=peer.state,
        restarts=None,
        totals=no_tokens(),
        running=peer.report.running if peer.report else None,
        queued=peer.report.queued if peer.report else None,
        kv=None,
        handoff=None,
    )


def _router_entry(gateway: Gateway) -> WorkerState:
    """Return the router's own entry: it computes no tokens itself."""
    settings = gateway.parts.settings
    return worker_state(
        id="router",
        role="router",
        module=None,
        url=f"http://{settings.host}:{settings.port}",
        pid=os.getpid(),
        state="up",
        restarts=int(os.getenv(RESTARTS_VARIABLE) or 0),
        totals=no_tokens(),
        running=gateway.proxy.num_running,
        queued=gateway.parts.admission.num_queued(),
        kv=None,
        handoff=None,
    )

"""Two routers that know each other, before the same small workers, all in the test's event loop."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from aiohttp import web

from prefillshare.config.router import Router
from prefillshare.routing.choice.demand import Demand
from prefillshare.routing.peers.ownership import rank_owners, session_key
from prefillshare.routing.settings import RouterSettings
from prefillshare.routing.web.app import make_app
from prefillshare.routing.web.connections import make_runner
from prefillshare.routing.web.keys import GATEWAY
from prefillshare.serving.machine.ports import free_port
from tests.routing.workers import BASE, FAST, Deployment, Rooms, SmallWorker, closing_session, until

ADMIN_KEY = "the-admin"


async def start_router(stack: contextlib.AsyncExitStack, settings: RouterSettings, **seen: Any) -> Deployment:
    """Serve a router until `stack` is left."""
    app = make_app(settings)
    runner = make_runner(app, idle_s=60, shutdown_timeout_s=0.1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, settings.host, settings.port).start()
    return Deployment(url=settings.own_address, gateway=app[GATEWAY], **seen)


@contextlib.asynccontextmanager
async def two_routers(*, settings: dict[str, Any] | None = None, **router: Any) -> AsyncIterator[list[Deployment]]:
    """Routers that see each other and the workers p0, p1, math-0 and math-1 up."""
    rooms = Rooms()
    names = (("p0", None), ("p1", None), ("math-0", "math"), ("math-1", "math"))
    workers = {name: SmallWorker(name, "decode" if module else "prefill", rooms, module) for name, module in names}
    async with contextlib.AsyncExitStack() as stack:
        for worker in workers.values():
            await worker.start()
            stack.push_async_callback(worker.stop)
        http = await stack.enter_async_context(closing_session())
        ports = [free_port(), free_port()]
        peers = tuple(f"http://127.0.0.1:{port}" for port in ports)
        told = RouterSettings(
            base_model=BASE,
            peers=peers,
            admin_key=ADMIN_KEY,
            router=Router(**(FAST | router)),
            workers=tuple(worker.spec for worker in workers.values()),
            **(settings or {}),
        )
        running = [await start_router(stack, replace(told, port=port), workers=workers, http=http) for port in ports]
        for router_here in running:
            await router_here.is_up(*workers)
        for router_here in running:
            peers_of = router_here.gateway.peers
            assert peers_of is not None
            await until(lambda known=peers_of: all(peer.can_answer("math") for peer in known))
        yield running


async def sees_others(running: Deployment, state: str) -> None:
    """Wait until a router has found the others in this state."""
    peers = running.gateway.peers
    assert peers is not None
    await until(lambda: all(peer.state == state for peer in peers))


def session_of(owner: str, other: str, start: str = "") -> str:
    """Return the name, with this start, of a session that `owner` owns of the two."""
    for number in range(1000):
        name = f"{start}session-{number}"
        demand = Demand(module="math", is_prefill_only=False, prompts=(), session=name)
        if rank_owners(session_key(demand), [owner, other])[0] == owner:
            return name
    raise AssertionError("no session has this owner")

"""Two routers beside one: `python -m benchmarks.router.pair [--saturation 10]`.

Workers and clients need a processor, too, and a machine with two has none left for them if each router has one. So two
routers share one core, which they keep busy as one router does, and their calls per second are doubled: what they cost
each other, and what passing calls on costs, is in it. Half of the clients call either router without pause, and all
calls belong to sessions:

- `at their owner`: each session calls the router that owns it, as behind a balancer that hashes sessions;
- `anywhere`: half of the calls come to the other router, which passes them on.
"""

import argparse
import asyncio
import os
from collections.abc import Sequence

import uvloop

from benchmarks.router.__main__ import START_TIMEOUT_S, describe_machine
from benchmarks.router.calls import MODULE, Target, closed_loop, until_answered
from benchmarks.router.processes import Running, router_address, routers
from prefillshare.routing.choice.demand import Demand
from prefillshare.routing.peers.ownership import rank_owners, session_key

NUM_SESSIONS = 400
WARM_UP_S = 2.0
_CORE, _OTHER_CORE = 0, 1


def sessions_of(owner: str, addresses: Sequence[str]) -> list[str]:
    """Return names of sessions that the router at `owner` owns."""
    names = [f"session-{number}" for number in range(NUM_SESSIONS * len(addresses))]
    return [name for name in names if rank_owners(_key(name), addresses)[0] == owner]


def _key(session: str) -> bytes:
    return session_key(Demand(module=MODULE, is_prefill_only=False, prompts=(), session=session))


async def capacity(running: Sequence[Running], *, is_anywhere: bool, num_clients: int, duration_s: float) -> float:
    """Return how many calls per second these routers would take with a core each; here they share one."""
    addresses = [router_address(router.port) for router in running]
    everything = [name for address in addresses for name in sessions_of(address, addresses)]
    targets = [
        Target(router.port, seed, everything if is_anywhere else sessions_of(address, addresses))
        for seed, (router, address) in enumerate(zip(running, addresses, strict=True))
    ]
    for target in targets:
        if not await until_answered(lambda asked=target: asked.call(0.0), START_TIMEOUT_S):
            raise SystemExit(f"a router does not answer: {target.last_error}")

    async def call_all(seconds: float) -> float:
        rates = (closed_loop(t, num_clients=num_clients // len(targets), duration_s=seconds) for t in targets)
        return sum(await asyncio.gather(*rates))

    await call_all(WARM_UP_S)
    return len(running) * await call_all(duration_s)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.router.pair", description=__doc__)
    parser.add_argument("--saturation", type=float, default=10.0, help="seconds per measurement")
    parser.add_argument("--clients", type=int, default=32, help="clients that call without pause")
    given = parser.parse_args()
    print(describe_machine())
    os.sched_setaffinity(0, {_OTHER_CORE})
    print("\n| routers | sessions | calls/s, a core each | of one |\n|---|---|---:|---:|")
    one = 0.0
    for number, is_anywhere in ((1, False), (2, False), (2, True)):
        with routers((_CORE,) * number, _OTHER_CORE) as running:
            measuring = capacity(
                running, is_anywhere=is_anywhere, num_clients=given.clients, duration_s=given.saturation
            )
            found = uvloop.run(measuring)
        one = one or found
        print(f"| {number} | {'anywhere' if is_anywhere else 'at their owner'} | {found:,.0f} | {found / one:.2f}x |")


if __name__ == "__main__":
    main()

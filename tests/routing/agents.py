"""Sessions of three modules over small workers that know what follows their answers."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from tests.routing.workers import Deployment, SmallWorker, deployment, until

MODULES = ("math", "tool", "code")
IDS = [5, 6, 7, 8]


@contextlib.asynccontextmanager
async def agents(**options: Any) -> AsyncIterator[Deployment]:
    """A deployment whose decode workers know what follows their answers."""
    async with deployment(**({"decode": MODULES} | options)) as running:
        for worker in running.workers.values():
            if worker.role == "decode":
                worker.continuation = {"input_ids": IDS, "extra_key": None, "module": worker.module, "new_tokens": 3}
        yield running


def decode_worker(running: Deployment, module: str) -> SmallWorker:
    return next(worker for worker in running.workers.values() if worker.module == module)


def jobs(running: Deployment) -> dict[str, int]:
    assert running.gateway.eager is not None
    return {name: count for name, count in asdict(running.gateway.eager.counters).items() if count}


async def settled(running: Deployment) -> None:
    """Wait until nothing is to be done any more."""
    assert running.gateway.eager is not None
    await until(lambda: not running.gateway.eager._jobs)


async def waiting(running: Deployment, number: int) -> None:
    """Wait until there are so many jobs."""
    assert running.gateway.eager is not None
    await until(lambda: len(running.gateway.eager._jobs) == number)


async def ask(running: Deployment, module: str = "math", session: str = "s", **fields: Any) -> None:
    """One call, answered to its end."""
    reply = await running.chat(module, session_id=session, **fields)
    assert reply.status == 200
    await reply.read()


async def take_turns(running: Deployment, rounds: int, session: str = "s") -> None:
    for _ in range(rounds):
        for module in MODULES:
            await ask(running, module, session)
            await settled(running)

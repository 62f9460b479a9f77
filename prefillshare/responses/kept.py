"""What is asked of responses that were answered, or that are being computed: read, cancelled, deleted."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import orjson

from prefillshare.config.responses import Responses
from prefillshare.responses.errors import ResponsesError
from prefillshare.responses.exchange import Exchange, unknown_response
from prefillshare.responses.store import Kept, ResponseStore
from prefillshare.wire.errors import error_text

log = logging.getLogger(__name__)

Run = Callable[[], Awaitable[tuple[int, bytes]]]
"""Computes an answer: its status and body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    """A response that is computed in the background."""

    owner: str
    task: asyncio.Task[None]


class KeptResponses:
    """The responses of one process, finished or not."""

    def __init__(self, limits: Responses) -> None:
        self.store = ResponseStore(limits)
        self._running: dict[str, _Running] = {}

    def open(
        self, body: Mapping[str, Any], response_id: str | None = None, owner: str = "", *, is_prefetch: bool = False
    ) -> Exchange:
        """Return the exchange that a call of `owner` with `body` begins; `is_prefetch` is what its hints say.

        Raises: ResponsesError.
        """
        exchange = Exchange(body, self.store, response_id, owner, is_prefetch=is_prefetch)
        if exchange.is_background and self.store.limits.max_count == 0:
            raise ResponsesError(
                "background is true where none is kept (max_count under [responses] is 0), and nobody could ask for "
                "it: leave it out",
                param="background",
            )
        if exchange.is_background:
            self._check_room(owner)
        return exchange

    def _check_room(self, owner: str) -> None:
        """Raises: ResponsesError when there is no place in the background, or the next one is another owner's."""
        owners = [running.owner for running in self._running.values() if not running.task.done()]
        num_own, num_left = owners.count(owner), self.store.limits.max_background - len(owners)
        if num_left <= 0:
            raise ResponsesError(
                f"{len(owners)} responses are computed in the background, which is max_background under "
                "[responses]: wait for one, or raise it",
                status=429,
            )
        # However many tenants there are, and whoever comes first, something is left for the next one.
        if owner and num_own >= num_left:
            raise ResponsesError(
                f"{num_own} responses of this tenant are computed in the background, and a tenant may have as many as "
                "it leaves to the others: wait for one",
                status=429,
            )

    def start(self, exchange: Exchange, run: Run, during: AbstractContextManager[None] | None = None) -> dict[str, Any]:
        """Let `run` compute the answer in the background; return the response object until then.

        The context `during` is open from now on until the answer is there.
        """
        held = ExitStack()
        if during is not None:
            # Not by the task: calls that come before its turn would not see it.
            held.enter_context(during)
        task = asyncio.get_running_loop().create_task(self._run(exchange, run))
        self._running[exchange.id] = _Running(owner=exchange.owner, task=task)
        task.add_done_callback(lambda _: self._end(exchange.id, held))
        return exchange.announce("queued")

    def _end(self, response_id: str, held: ExitStack) -> None:
        self._running.pop(response_id, None)
        held.close()

    def get(self, response_id: str, owner: str = "") -> bytes:
        """Return the response object, as JSON.

        Raises: ResponsesError.
        """
        return self._find(response_id, owner).response

    def list_items(self, response_id: str, owner: str = "") -> dict[str, Any]:
        """Return the items of the conversation before the answer, newest first, as OpenAI's API has them.

        Raises: ResponsesError.
        """
        items = orjson.loads(self._find(response_id, owner).items)[::-1]
        ids = [item.get("id") if isinstance(item, dict) else None for item in items]
        ends = {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}
        return {"object": "list", "data": items, **ends, "has_more": False}

    def delete(self, response_id: str, owner: str = "") -> dict[str, Any]:
        """Forget a response, which ends if it is being computed.

        Raises: ResponsesError.
        """
        self._find(response_id, owner)
        if (running := self._running.pop(response_id, None)) is not None:
            running.task.cancel()
        self.store.delete(response_id, owner)
        return {"id": response_id, "object": "response.deleted", "deleted": True}

    def cancel(self, response_id: str, owner: str = "") -> bytes:
        """End a response that is computed in the background; return its object.

        Raises: ResponsesError.
        """
        kept = self._find(response_id, owner)
        running, status = self._running.get(response_id), orjson.loads(kept.response).get("status")
        if running is None or status not in ("queued", "in_progress"):
            raise ResponsesError(f"response {response_id!r} is {status}: only one in the background can be cancelled")
        del self._running[response_id]
        running.task.cancel()
        told = orjson.loads(kept.response) | {"status": "cancelled"}
        self.store.put(response_id, told, orjson.loads(kept.items), owner)
        return orjson.dumps(told)

    async def close(self) -> None:
        """End what is being computed."""
        tasks = [running.task for running in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _find(self, response_id: str, owner: str) -> Kept:
        kept = self.store.get(response_id, owner)
        if kept is None:
            raise unknown_response(response_id)
        return kept

    async def _run(self, exchange: Exchange, run: Run) -> None:
        exchange.announce("in_progress")
        try:
            status, body = await run()
            if exchange.id not in self._running:
                return  # cancelled, and answered all the same
            if status == 200:
                exchange.finish(orjson.loads(body))
                return
            error = {"code": "invalid_prompt" if status < 500 else "server_error", "message": error_text(body)}
        except asyncio.CancelledError:
            raise  # whoever cancelled it has said so
        except Exception as cause:  # a task of its own: nobody else would hear of it
            if exchange.id not in self._running:
                return  # cancelled, and what ended so did not end well; it must not come back as a failed one
            log.exception("response %s failed", exchange.id)
            error = {"code": "server_error", "message": str(cause)}
        exchange.announce("failed", error=error)

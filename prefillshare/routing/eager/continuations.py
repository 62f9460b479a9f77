"""Asking a decode worker with which tokens the next prompt begins after an answer that it gave."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import orjson

from prefillshare.contract import CONTINUATION_PATH
from prefillshare.routing.workers.client import WorkerClient
from prefillshare.routing.workers.worker import Worker
from prefillshare.wire.continuation import Continuation

ASK_TIMEOUT_S = 5.0


@dataclass(slots=True, kw_only=True)
class _Known:
    """What is known of a worker since its last start."""

    num_ups: int
    has_path: bool = True


class Continuations:
    """Asks decode workers; one of another version, which lacks the path, is asked no more until it starts again."""

    def __init__(self, client: WorkerClient) -> None:
        self._client = client
        self._known: WeakKeyDictionary[Worker, _Known] = WeakKeyDictionary()

    def can_ask(self, worker: Worker) -> bool:
        """Return whether `worker` may have an answer."""
        return self._of(worker).has_path

    async def ask(self, worker: Worker, rid: str) -> Continuation | None:
        """Return what follows the answer `rid`; None when nothing certain does.

        Raises: OSError, TimeoutError, ShortageError.
        """
        known = self._of(worker)
        status, content = await self._client.fetch(worker, f"{CONTINUATION_PATH}?rid={rid}", timeout_s=ASK_TIMEOUT_S)
        # A worker that has the path answers 404 as well, for an answer after which nothing is certain.
        known.has_path = status != 404 or _is_about_rid(content)
        return _read(content) if status == 200 else None

    def _of(self, worker: Worker) -> _Known:
        known = self._known.get(worker)
        if known is None or known.num_ups != worker.num_ups:
            known = self._known[worker] = _Known(num_ups=worker.num_ups)
        return known


def _is_about_rid(content: bytes) -> bool:
    """Whether an error answer says that this id is not known, and not that there is no such path."""
    try:
        return bool(orjson.loads(content)["error"]["param"] == "rid")
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return False


def _read(content: bytes) -> Continuation | None:
    """Return the continuation in the body; None when it holds none that can be computed."""
    try:
        value: Mapping[str, Any] = orjson.loads(content)
        found = Continuation(
            input_ids=list(value["input_ids"]),
            extra_key=value["extra_key"],
            module=str(value["module"]),
            new_tokens=int(value["new_tokens"]),
        )
    except (orjson.JSONDecodeError, LookupError, TypeError, ValueError):
        return None
    return found if found.input_ids and found.new_tokens > 0 else None

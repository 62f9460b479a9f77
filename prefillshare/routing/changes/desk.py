"""What is to change about decode modules: the router asks whoever started its workers, and tells the caller the end.

A wish is a file in the folder that the launcher made for the router, which looks at it several times a second without
asking anybody; what became of it comes over HTTP, as of moves. A launcher that is busy with a wish goes on with it
although the router was started again, and finds nobody who wants to hear of it then.

    router: PUT /modules/NAME ... --wish file--> launcher: checks, starts workers, POST /workers, DELETE /workers/...
    router: ... 200 or the reason <--PUT /router/changes-- launcher
"""

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefillshare.routing.changes.kept import write_whole
from prefillshare.routing.errors import BadCallError, ConflictError, NotFoundError, RoutingError


class ChangeRefusedError(RoutingError):
    """The launcher refused a change; it has the status of the reason."""

    kind = "invalid_request_error"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True, kw_only=True)
class ChangeDesk:
    """The changes of one router."""

    folder: Path | None
    """Where the launcher looks for wishes; None where nobody starts workers for this router."""
    _waiting: dict[str, "asyncio.Future[Mapping[str, Any]]"] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the one change that is being made."""

    async def ask(self, kind: str, name: str, table: object = None) -> dict[str, Any]:
        """Let the launcher make a change and return what it says of it.

        Raises: ConflictError where there is no launcher, ChangeRefusedError with its reason.
        """
        if self.folder is None:
            raise ConflictError(
                "this router was started without its workers, so it cannot start or end any: use `prefillshare worker "
                "--join` for a new module, and stop the workers of one that is to go"
            )
        # Process ids are used again, and a launcher may still be busy with a wish of an earlier life.
        wish_id = uuid.uuid4().hex
        answer = asyncio.get_running_loop().create_future()
        wish = {"id": wish_id, "kind": kind, "name": name, "table": table}
        write_or_refuse(self.folder / f"{wish_id}.wish", wish)
        self._waiting[wish_id] = answer
        try:
            told = await answer
        finally:
            del self._waiting[wish_id]
        if told.get("error") is not None:
            raise ChangeRefusedError(str(told["error"]), int(told.get("status", 400)))
        return dict(told["result"])

    def hear(self, told: object) -> None:
        """Hear what became of a wish.

        Raises: BadCallError, NotFoundError when nobody waits for it any more.
        """
        if not isinstance(told, Mapping) or not isinstance(told.get("id"), str):
            raise BadCallError("the body must be a JSON object with id, and result or error")
        answer = self._waiting.get(told["id"])
        if answer is None or answer.done():
            raise NotFoundError(f"nobody waits for the change {told['id']!r}")
        answer.set_result(told)


def write_or_refuse(file: Path, content: object) -> None:
    """Write JSON into a file, all of it or nothing.

    Raises: ChangeRefusedError when the disk does not take it.
    """
    try:
        write_whole(file, content)
    except OSError as error:
        raise ChangeRefusedError(f"{file} cannot be written ({error.strerror}), and nothing has changed", 507) from None

"""Who may call: clients with the API key, operators with the admin key, and everybody where none is set."""

import hmac
import re
from collections.abc import Mapping
from typing import Protocol

from prefillshare.contract import CHANGES_PATH
from prefillshare.roles.report import ROLES_PATH
from prefillshare.routing.errors import ForbiddenError, UnauthorizedError
from prefillshare.routing.peers.hop import Hops
from prefillshare.routing.settings import RouterSettings

_OPEN_PATHS = frozenset({"/health"})
_CHANGES_PATHS = ("/workers", ROLES_PATH, CHANGES_PATH, "/aliases")
_OF_MODULES = re.compile(r"/modules/[^/]+(/reload)?")
"""Further paths below a module's are calls."""


class Asked(Protocol):
    """What is looked at of a request."""

    @property
    def method(self) -> str:
        """Its method."""
        ...

    @property
    def path(self) -> str:
        """Its path."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers."""
        ...


def check_key(request: Asked, settings: RouterSettings, hops: Hops | None) -> None:
    """Let the request pass, or raise.

    Raises: UnauthorizedError for a missing or wrong key, ForbiddenError when nobody may change workers or a router's
    mark is wrong.
    """
    # Browsers ask whether they may call before they send a key.
    if request.path in _OPEN_PATHS or request.method == "OPTIONS":
        return
    is_change = request.method != "GET" and _is_of_changes(request.path)
    if is_change and settings.admin_key is None:
        raise ForbiddenError(
            "workers and modules cannot be changed because this router has no admin key: start it with one"
        )
    wanted = settings.admin_key if is_change else settings.api_key
    # Who may change workers may call, too; the other way round not.
    if wanted is None or _matches_any(_read_key(request), wanted, settings.admin_key):
        return
    # What another router passes on was let in there, by the same key.
    if hops is not None and not is_change and hops.is_hop(request.headers):
        return
    what = "the admin key" if is_change else "an API key"
    raise UnauthorizedError(f"this needs {what}: send it as Authorization: Bearer KEY")


def _is_of_changes(path: str) -> bool:
    return path.startswith(_CHANGES_PATHS) or _OF_MODULES.fullmatch(path) is not None


def _read_key(request: Asked) -> str:
    if key := request.headers.get("X-Api-Key"):  # as Anthropic's clients send it
        return key
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _matches_any(key: str, *wanted: str | None) -> bool:
    given = key.encode(errors="surrogateescape")
    # Comparing must take equally long for every wrong key, or the time of the answer tells how it begins.
    return any(hmac.compare_digest(given, known.encode()) for known in wanted if known)

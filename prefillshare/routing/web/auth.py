"""Who may call: clients with the API key or a tenant's, operators with the admin key, everybody where none is set."""

import hmac
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from prefillshare.contract import CHANGES_PATH, TENANT_HEADER
from prefillshare.naming.names import Names
from prefillshare.roles.report import ROLES_PATH
from prefillshare.routing.errors import ForbiddenError, UnauthorizedError
from prefillshare.routing.peers.hop import Hops
from prefillshare.routing.settings import RouterSettings
from prefillshare.tenants.account import Account
from prefillshare.tenants.doors import check_door, is_costly
from prefillshare.tenants.roster import Roster
from prefillshare.wire.keys import find_key

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


def check_key(
    request: Asked,
    settings: RouterSettings,
    hops: Hops | None,
    tenants: Roster | None,
    names: Callable[[], Names],
) -> Account | None:
    """Let the request pass, or raise; return the tenant whose request it is, None for everybody else's.

    `names` gives those of the deployment.
    Raises: UnauthorizedError for a missing or wrong key, ForbiddenError when nobody may change workers or a router's
    mark is wrong, TenantError for what is not for the keys of tenants.
    """
    # Browsers ask whether they may call before they send a key.
    if request.path in _OPEN_PATHS or request.method == "OPTIONS":
        return None
    is_change = request.method != "GET" and _is_of_changes(request.path)
    if is_change and settings.admin_key is None:
        raise ForbiddenError(
            "workers and modules cannot be changed because this router has no admin key: start it with one"
        )
    wanted = settings.admin_key if is_change else settings.api_key
    # Who may change workers may call, too; the other way round not.
    if tenants is not None and not is_change:
        return _find_tenant(request, settings, hops, tenants, names)
    if wanted is None or _matches_any(find_key(request.headers.get), wanted, settings.admin_key):
        return None
    # What another router passes on was let in there, by the same key.
    if hops is not None and not is_change and hops.is_hop(request.headers):
        return None
    what = "the admin key" if is_change else "an API key"
    raise UnauthorizedError(f"this needs {what}: send it as Authorization: Bearer KEY")


def _is_of_changes(path: str) -> bool:
    return path.startswith(_CHANGES_PATHS) or _OF_MODULES.fullmatch(path) is not None


def _find_tenant(
    request: Asked, settings: RouterSettings, hops: Hops | None, tenants: Roster, names: Callable[[], Names]
) -> Account | None:
    """Return the tenant; None for the operator, and for a router on its own behalf."""
    if hops is not None and hops.is_hop(request.headers):
        return _find_passed_on(request, tenants)
    key = find_key(request.headers.get)
    if _matches_any(key, settings.api_key, settings.admin_key):
        return None
    account = tenants.find(key)
    if account is None:
        tenants.num_unknown_keys += 1
        raise UnauthorizedError(
            "this needs a key, and none or an unknown one came: send it as Authorization: Bearer KEY"
        )
    check_door(account, request.method, request.path, names)
    return account


def _find_passed_on(request: Asked, tenants: Roster) -> Account | None:
    """What another router passes on was let in there; it says for whom."""
    name = request.headers.get(TENANT_HEADER)
    account = None if name is None else tenants.get(name)
    if name is not None and account is None:
        raise UnauthorizedError(
            f"tenant {name!r} is not in the tenants' file of this router: give all routers the same"
        )
    return account


def begin_request(request: Asked, account: Account | None, hops: Hops | None) -> AbstractContextManager[None]:
    """Count what a tenant asks while the returned context is open.

    Raises: OverLimitError.
    """
    if account is None or not is_costly(request.method, request.path):
        return nullcontext()
    if hops is not None and hops.is_hop(request.headers):
        # Whoever passed it on has counted it. What it has used of its tokens only this router knows.
        account.check_tokens()
        return nullcontext()
    return account.calling()


def _matches_any(key: str, *wanted: str | None) -> bool:
    given = key.encode(errors="surrogateescape")
    # Comparing must take equally long for every wrong key, or the time of the answer tells how it begins.
    return any(hmac.compare_digest(given, known.encode()) for known in wanted if known)

"""Which doors a tenant's key opens: those of calls, and what a client asks before it calls.

All others tell of everybody's load and sessions, or change the deployment: they want the operator's key.
"""

import re
from collections.abc import Callable

from prefillshare.naming.names import Names
from prefillshare.tenants.account import Account
from prefillshare.tenants.errors import TenantError
from prefillshare.wire.paths import find_near

_CALLS = frozenset(("/v1/chat/completions", "/v1/completions", "/generate", "/v1/messages", "/v1/responses"))
_COUNTS = ("/tokenize", "/detokenize", "/v1/tokenize", "/v1/detokenize", "/v1/messages/count_tokens")
_PATHS = (*sorted(_CALLS), *_COUNTS, "/v1/models")
_OF_MODULE = re.compile(r"/modules/([^/]+)/(generate|model_info|get_model_info)")
_CANCEL = re.compile(r"/v1/responses/[^/]+/cancel")
_DOORS = (
    (re.compile("|".join(map(re.escape, (*sorted(_CALLS), *_COUNTS)))), frozenset(("POST", "PUT"))),
    (re.compile(r"/v1/responses/[^/]+(/cancel|/input_items)?"), frozenset(("GET", "POST", "DELETE"))),
    (re.compile(r"/v1/models(/[^/]+)?|/modules|/model_info|/get_model_info"), frozenset(("GET", "HEAD"))),
    (_OF_MODULE, frozenset(("GET", "POST", "PUT"))),
)


def check_door(account: Account, method: str, path: str, names: Callable[[], Names]) -> None:
    """Raise TenantError where the tenant must not ask this; `names` gives those of the deployment."""
    if not any(method in methods and pattern.fullmatch(path) for pattern, methods in _DOORS):
        account.refuse("door")
        near = find_near(path, _PATHS)
        meant = "" if near is None or near == path else f"; did you mean {near}?"
        raise TenantError(
            f"{path[:100]} is not for the keys of tenants: it needs the operator's key{meant}", reason="door"
        )
    module = addressed_module(path)
    # An alias that may be the tenant's is looked at again when it is known what it means.
    if module is not None and module not in names().only(account.allows).aliases:
        account.check_name(module)


def is_call(path: str) -> bool:
    """Whether something is computed there, in a namespace of the caches."""
    return path in _CALLS or (path.startswith("/modules/") and path.endswith("/generate"))


def is_costly(method: str, path: str) -> bool:
    """Whether a request counts for limits: reading what is there does not, nor does ending what runs."""
    return method in ("POST", "PUT") and not _CANCEL.fullmatch(path)


def addressed_module(path: str) -> str | None:
    """Return the module that an address names; None where it names none."""
    match = _OF_MODULE.fullmatch(path)
    return match and match[1]

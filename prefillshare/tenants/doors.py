"""Which doors a tenant's key opens: those of calls, and what a client asks before it calls.

All others tell of everybody's load and sessions, or change the deployment: they want the operator's key.
"""

import re

from prefillshare.tenants.account import Account
from prefillshare.tenants.errors import TenantError

_CALLS = frozenset(("/v1/chat/completions", "/v1/completions", "/generate", "/v1/messages", "/v1/responses"))
_COUNTS = ("/tokenize", "/detokenize", "/v1/tokenize", "/v1/detokenize", "/v1/messages/count_tokens")
_OF_MODULE = re.compile(r"/modules/([^/]+)/(generate|model_info|get_model_info)")
_DOORS = (
    (re.compile("|".join(map(re.escape, (*sorted(_CALLS), *_COUNTS)))), frozenset(("POST", "PUT"))),
    (re.compile(r"/v1/responses/[^/]+(/cancel|/input_items)?"), frozenset(("GET", "POST", "DELETE"))),
    (re.compile(r"/v1/models(/[^/]+)?|/modules|/model_info|/get_model_info"), frozenset(("GET", "HEAD"))),
    (_OF_MODULE, frozenset(("GET", "POST", "PUT"))),
)


def check_door(account: Account, method: str, path: str) -> None:
    """Raise TenantError where the tenant must not ask this."""
    if not any(method in methods and pattern.fullmatch(path) for pattern, methods in _DOORS):
        account.refuse("door")
        raise TenantError(f"{path[:100]} is not for the keys of tenants: it needs the operator's key", reason="door")
    if (module := addressed_module(path)) is not None:
        account.check_name(module)


def is_call(path: str) -> bool:
    """Whether something is computed there, in a namespace of the caches."""
    return path in _CALLS or (path.startswith("/modules/") and path.endswith("/generate"))


def is_costly(method: str) -> bool:
    """Whether a request of this method counts for limits: reading what is there does not."""
    return method in ("POST", "PUT")


def addressed_module(path: str) -> str | None:
    """Return the module that an address names; None where it names none."""
    match = _OF_MODULE.fullmatch(path)
    return match and match[1]

"""A tenant's call as it may go further: in the tenant's namespace, for a module that is the tenant's."""

from collections.abc import Mapping
from typing import Any

from prefillshare.errors import short_repr
from prefillshare.tenants.account import Account
from prefillshare.tenants.namespace import MARK, is_tenants
from prefillshare.wire.namespace import cache_namespace

_NAMESPACE = frozenset(("cache_salt", "extra_key"))
_LEFT_OUT = _NAMESPACE | {"rid"}
"""What a call says of its namespace goes into one key. Ids of requests (`rid`) are one
space for all: a tenant's could be another's, whose call would be refused."""
_OTHERS_SESSIONS = "session_params"
"""SGLang's sessions are known by ids that anybody can guess, and hold what was said in them."""


class ConfinedError(ValueError):
    """What a call says cannot be said by this caller; `param` is the member at fault."""

    def __init__(self, message: str, *, param: str) -> None:
        super().__init__(message)
        self.param = param


def confine(body: Mapping[str, Any], account: Account) -> dict[str, Any]:
    """Return the call in `body` as one of the tenant.

    Raises: ConfinedError, also for what no call may say.
    """
    if body.get(_OTHERS_SESSIONS) is not None:
        raise ConfinedError(
            f"{_OTHERS_SESSIONS} cannot be used with a tenant's key: send the whole conversation, its prefix is cached",
            param=_OTHERS_SESSIONS,
        )
    confined = {name: value for name, value in body.items() if name not in _LEFT_OUT}
    return confined | _one_key(body, account.mark)


def join_namespace(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the call in `body` with its `cache_salt` inside of its `extra_key`: SGLang's own interface knows no other.

    Raises: ConfinedError.
    """
    return {name: value for name, value in body.items() if name not in _NAMESPACE} | _one_key(body, None)


def check_module(body: Mapping[str, Any], account: Account, otherwise: str | None, base: str) -> None:
    """Raise ForbiddenModuleError where a call asks for a module that is not the tenant's.

    `otherwise` is the module that answers where the call names none.
    """
    if account.tenant.modules:
        for name in _named(body, otherwise, base):
            account.check_name(name)


def _named(body: Mapping[str, Any], otherwise: str | None, base: str) -> list[str]:
    """All names that a call gives: whichever counts, each must be the tenant's."""
    paths = body.get("lora_path")
    given = [body.get("model"), otherwise, *(paths if isinstance(paths, list) else [paths])]
    names = [name.removeprefix(f"{base}:") for name in given if isinstance(name, str)]
    # The prefill module's name beside an adapter's only says whose adapter it is.
    adapters = [name for name in names if name != base]
    return adapters or names


def _one_key(body: Mapping[str, Any], mark: str | None) -> dict[str, Any]:
    """The member that says in which namespace a call is, behind the tenant's `mark`; none for nobody's namespace."""
    salts, keys = body.get("cache_salt"), body.get("extra_key")
    if isinstance(salts, list) or isinstance(keys, list):
        return {"extra_key": _mark_each(mark, salts, keys)}
    namespace = _mark(mark, salts, keys)
    return {} if namespace is None else {"extra_key": namespace}


def _mark(mark: str | None, salt: Any, key: Any) -> str | None:
    for name, value in (("cache_salt", salt), ("extra_key", key)):
        if value is not None and not isinstance(value, str):
            raise ConfinedError(f"{name} is {short_repr(value)}: give a text", param=name)
        _refuse_mark(value, name)
    namespace = cache_namespace(salt, key)
    return namespace if mark is None else mark + (namespace or "")


def _mark_each(mark: str | None, salts: Any, keys: Any) -> list[str | None]:
    """The same for each prompt of a batch."""
    length = len(salts if isinstance(salts, list) else keys)
    pairs = [each if isinstance(each, list) else [each] * length for each in (salts, keys)]
    if len(pairs[0]) != len(pairs[1]):
        raise ConfinedError(
            f"cache_salt has {len(pairs[0])} entries and extra_key {len(pairs[1])}: give one for each prompt, or one "
            "for all",
            param="cache_salt",
        )
    return [_mark(mark, salt, key) for salt, key in zip(*pairs, strict=True)]


def _refuse_mark(value: Any, name: str) -> None:
    if isinstance(value, str) and is_tenants(value):
        raise ConfinedError(f"{name} begins with {MARK!r}, which this server uses itself: give another one", param=name)

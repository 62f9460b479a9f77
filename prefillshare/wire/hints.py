"""What a caller knows of its prompt's future: that it comes soon, and for how long the cache should keep it.

Read in three forms: `kv_hints` ({"prefetch": true, "pin": true, "ttl": "5m"}), `agent_hints`, by itself or under
`nvext`, with the same members, and Anthropic's `cache_control` ({"type": "ephemeral", "ttl": "1h"}), wherever it stands
in a call. How long something is kept is a hint: nobody is promised anything. A call with `prefetch` has its prompt
loaded or computed, and no answer. Members that are not known here mean nothing here.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

DEFAULT_TTL_S = 300
MAX_TTL_S = 3600
HINT_MEMBERS = ("kv_hints", "agent_hints", "nvext", "cache_control")
"""Members of a body that only this reads."""
_NAMED = re.compile(b"|".join(f'"{name}"'.encode() for name in HINT_MEMBERS))
_TTL = re.compile(r"(\d{1,6})(s|m|h)")
_UNITS = {"s": 1, "m": 60, "h": 3600}
_HOLDERS = ("messages", "system", "tools", "content")
"""Members that hold blocks with `cache_control`."""
_MAX_BLOCKS = 10_000


class HintError(ValueError):
    """A hint that is meant and cannot be read."""


def may_have_hints(raw: bytes) -> bool:
    """Whether a body, as it came, may have hints: most have none, and need not be looked through."""
    return _NAMED.search(raw) is not None


def read_pin_s(body: Mapping[str, Any]) -> int:
    """Return for how many seconds the prompt of a call should be kept; 0 where nothing is said.

    Raises: HintError.
    """
    found = [_read_ttl(hint.get("ttl")) for hint in _hints(body) if _read_flag(hint, "pin")]
    controls = (_nvext(body).get("cache_control"), *_controls(body))
    found += [_read_control(control) for control in controls if control is not None]
    return min(max(found, default=0), MAX_TTL_S)


def read_prefetch(body: Mapping[str, Any]) -> bool:
    """Return whether a call only wants to have its prompt in the cache; a look at three members.

    Raises: HintError.
    """
    # Each is read, so that none with a mistake passes beside a right one.
    flags = [_read_flag(hint, "prefetch") for hint in _hints(body)]
    return any(flags)


def _hints(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for hint in (body.get("kv_hints"), body.get("agent_hints"), _nvext(body).get("agent_hints")):
        if hint is None:
            continue
        if not isinstance(hint, Mapping):
            raise HintError(f"hints are {str(hint)[:40]!r}: give an object, such as {{'pin': true, 'ttl': '5m'}}")
        yield hint


def _nvext(body: Mapping[str, Any]) -> Mapping[str, Any]:
    nvext = body.get("nvext")
    return nvext if isinstance(nvext, Mapping) else {}


def _read_flag(hint: Mapping[str, Any], name: str) -> bool:
    flag = hint.get(name)
    if flag is not None and not isinstance(flag, bool):
        raise HintError(f"{name} is {str(flag)[:40]!r}: it must be true or false")
    return bool(flag)


def _read_control(control: Any) -> int:
    if not isinstance(control, Mapping) or control.get("type") != "ephemeral":
        raise HintError(f"cache_control is {str(control)[:60]}: give {{'type': 'ephemeral'}}, with a ttl or without")
    return _read_ttl(control.get("ttl"))


def _read_ttl(given: Any) -> int:
    if given is None:
        return DEFAULT_TTL_S
    if isinstance(given, int) and not isinstance(given, bool) and given > 0:
        return given
    match = _TTL.fullmatch(given) if isinstance(given, str) else None
    if match is None or int(match[1]) == 0:
        raise HintError(f"ttl is {str(given)[:40]!r}: give seconds, or such as '5m' or '1h'")
    return int(match[1]) * _UNITS[match[2]]


def _controls(body: Mapping[str, Any]) -> Iterator[Any]:
    """All that is said by `cache_control` in a call."""
    left: list[Any] = [body]
    num_seen = 0
    while left and num_seen < _MAX_BLOCKS:
        item = left.pop()
        num_seen += 1
        if isinstance(item, Mapping):
            yield item.get("cache_control")
            left += [item[name] for name in _HOLDERS if isinstance(item.get(name), list)]
        elif isinstance(item, list):
            left += item

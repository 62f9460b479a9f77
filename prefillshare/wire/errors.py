"""OpenAI's error object, in which every error is answered, and the reasons that other forms of it give.

Anthropic's clients read another form: below `/v1/messages` errors are answered in that.

SGLang answers errors in five forms; :mod:`sglang_patches.http.errors` and the router's client make one of them.
"""

import ast
import json
import re
from collections.abc import Mapping
from typing import Any, TypedDict

from prefillshare.wire.text import as_json, make_printable, shorten


class ErrorObject(TypedDict):
    """What stands under "error"."""

    message: str
    type: str
    param: str | None
    code: str | None


_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_CODES = {401: "invalid_api_key", 404: "not_found"}
_VALIDATION = re.compile(r"^\d+ validation errors?:\n")
_DETAIL = re.compile(r"^  (\{.*\})$", re.MULTILINE)
_PYDANTIC = re.compile(r"^\d+ validation errors? for \w+\n")
_PYDANTIC_DETAIL = re.compile(r"^(\S+).*\n  (?:Value error, )?(.+?)(?: \[type=.*)?$", re.MULTILINE)
"""Of the text of pydantic's own error: place and reason; the place ends in names of types that were tried."""
_RAISED = re.compile(r"\b\w+Error\(((?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"))\)")
"""An exception within the literal, of which the text counts."""
_KEYS = frozenset(ErrorObject.__annotations__)
_MAX_MESSAGE = 2000
_MAX_DETAILS = 3
_MAX_TEXT = 500
_NO_REASON = "no reason given"


def openai_error(body: bytes, status: int) -> bytes:
    """Return the error answer `body` in OpenAI's form; one that is in it already stays as it is."""
    try:
        error = json.loads(body)["error"]
    except (ValueError, RecursionError, TypeError, LookupError):
        error = None
    if isinstance(error, Mapping) and error.keys() >= _KEYS and isinstance(error["code"], str | None):
        return body
    given = _read_reason(body)
    # SGLang's answers about adapters have `error_message`.
    text, param = _put_in_words(str(given.get("message") or given.get("error_message") or _NO_REASON))
    code = given.get("code")
    object_ = error_object(
        make_printable(text)[:_MAX_MESSAGE],
        kind=_TYPES.get(status, "invalid_request_error" if status < 500 else "internal_server_error"),
        param=given.get("param") or param,
        code=code if isinstance(code, str) else _CODES.get(status),
    )
    return as_json({"error": object_})


def anthropic_error(body: bytes, status: int) -> bytes:
    """Return the error answer `body` in Anthropic's form."""
    kind = _ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    message = make_printable(str(_read_reason(body).get("message") or _NO_REASON))[:_MAX_MESSAGE]
    return as_json({"type": "error", "error": {"type": kind, "message": message}})


def error_object(message: str, *, kind: str, param: str | None = None, code: str | None = None) -> ErrorObject:
    """Return OpenAI's error object; an answer has it under "error"."""
    return {"message": message, "type": kind, "param": param, "code": code}


def error_text(body: bytes) -> str:
    """Return the reason that the error answer `body` gives, whatever its form, shortened for a log or a message."""
    given = _read_reason(body)
    text = str(given.get("message", given.get("error_message", given)))
    return shorten(text.strip() or _NO_REASON, _MAX_TEXT)


def _read_reason(body: bytes) -> Mapping[str, Any]:
    """The innermost object that tells the reason; a bare text as such an object."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = body.decode(errors="replace")
    for name in ("error", "detail"):
        if isinstance(value, Mapping) and name in value:
            value = value[name]
    return value if isinstance(value, Mapping) else {"message": value}


def _put_in_words(text: str) -> tuple[str, str | None]:
    """A message of FastAPI's validation as "field: what is wrong", and the field; any other as it is."""
    if _PYDANTIC.match(text):
        return _put_pydantic_in_words(text)
    if not _VALIDATION.match(text):
        return text, None
    found = [_read_detail(literal) for literal in _DETAIL.findall(text)]
    details = list(dict.fromkeys(detail for detail in found if detail is not None))
    if not details:
        return text.partition("\n\n")[0], None
    words = "; ".join(": ".join(filter(None, detail)) for detail in details[:_MAX_DETAILS])
    return words, details[0][0] or None


def _put_pydantic_in_words(text: str) -> tuple[str, str | None]:
    found = [
        (re.split(r"\.[a-z-]*\[|\.[A-Z]|\.function-", place)[0], reason)
        for place, reason in _PYDANTIC_DETAIL.findall(text.partition("\n")[2])
    ]
    details = list(dict.fromkeys(found))[:_MAX_DETAILS]
    return "; ".join(": ".join(detail) for detail in details) or text, details[0][0].split(".")[0] if details else None


def _read_detail(literal: str) -> tuple[str, str] | None:
    try:
        detail = ast.literal_eval(_RAISED.sub(r"\1", literal))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    # Behind the field stand the names of the types that were tried.
    place = [part for part in detail.get("loc", ()) if part not in ("body", "header")]
    field = place[0] if place and isinstance(place[0], str) else ""
    reason = str(detail.get("ctx", {}).get("error") or detail.get("msg", ""))
    if detail.get("type") == "json_invalid":
        return "", f"the body is not JSON ({reason}): send a JSON object"
    if detail.get("type") == "missing":
        # What it is missing in says little; its own name stands last.
        missing = place[-1] if len(place) > 1 else None
        return field, f"{missing} is missing" if isinstance(missing, str) else reason
    given = f" (it is {str(detail['input'])[:60]!r})" if "input" in detail and field else ""
    return field, f"{reason}{given}"

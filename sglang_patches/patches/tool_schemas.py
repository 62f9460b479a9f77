"""Parameter schemas of tools are checked in a thousandth of the time.

Target: ``Draft202012Validator`` as ``sglang.srt.entrypoints.openai.serving_chat`` sees it
Why: it checks the schemas of all tools of a call on the event loop, in Python: 250 kB take almost two seconds, in which
    nobody else is served.
How: the same draft's own schema, compiled by a library in Rust, takes a millisecond for that.
Upstream: sglang/srt/entrypoints/openai/serving_chat.py:846 at 0.5.17.
Remove when: upstream checks them elsewhere, or faster.
"""

from __future__ import annotations

import functools
from typing import Any

import jsonschema_rs

from sglang_patches.declarations import wraps_upstream

META_SCHEMA = "https://json-schema.org/draft/2020-12/schema"


@wraps_upstream(
    "entrypoints.openai.serving_chat:Draft202012Validator",
    "4006458bd660d883",
    "the schemas of many tools would hold up everybody while they are checked",
)
class FastValidator:
    """What SGLang uses of jsonschema's class."""

    def __init__(self, _original: Any = None) -> None:
        self.check_schema = check_schema


@functools.cache
def _meta_schema() -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator({"$ref": META_SCHEMA})


def check_schema(schema: Any) -> None:
    """Raises: jsonschema.SchemaError when ``schema`` is none."""
    from jsonschema import SchemaError

    try:
        _meta_schema().validate(schema)
    except jsonschema_rs.ValidationError as error:
        place = "/".join(str(part) for part in error.instance_path)
        raise SchemaError(f"{error.message[:300]}{f' (at {place})' if place else ''}") from None

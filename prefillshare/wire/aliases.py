"""What an alias is said to mean in a body: `{"module": NAME}`, `{"weights": {NAME: SHARE, ...}}`, or rules.

Rules are `{"default": NAME, "rules": [{"module": NAME, "text": PATTERN}, ...]}`; beside them, or in their place, stands
`"classifier": DIRECTORY`.
"""

from collections.abc import Mapping


def read_meaning(body: object) -> object:
    """Return what `naming.alias.read_alias` reads; None when the body has none of these forms."""
    if isinstance(body, Mapping) and ("rules" in body or "classifier" in body):
        return body
    if not isinstance(body, Mapping) or len(body) != 1:
        return None
    return body.get("module") or body.get("weights")

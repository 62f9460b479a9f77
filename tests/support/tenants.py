"""A tenants' file for tests, with the keys that it has the hashes of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefillshare.tenants.file import add_key

OPERATOR = "the-operators"


def write_tenants(path: Path, **tenants: Mapping[str, Any]) -> dict[str, str]:
    """Write tenants with their limits; return each one's key."""
    import tomlkit

    keys = {name: add_key(path, name) for name in tenants}
    document = tomlkit.parse(path.read_text())
    for table in document["tenant"]:
        table.update(tenants.get(table["name"], {}))
    path.write_text(document.as_string())
    return keys


def bearer(key: str) -> dict[str, str]:
    """The header that carries a key."""
    return {"Authorization": f"Bearer {key}"}

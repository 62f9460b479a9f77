"""docs/deployment-file.md has every key of a deployment file with its default, and no other."""

import dataclasses
import re
from pathlib import Path

import pytest

from prefillshare.config.cluster import Cluster
from prefillshare.config.engine_changes import EngineChanges
from prefillshare.config.responses import Responses
from prefillshare.config.router import Router
from prefillshare.config.schema import DecodeModule, Deployment, Engine, PrefillModule, Transfer
from prefillshare.config.store import Store
from prefillshare.config.tenants import Tenants

PAGE = Path(__file__).parents[2] / "docs" / "deployment-file.md"
TABLES = {
    "Top level": Deployment,
    "`[prefill]`": PrefillModule,
    "`[[decode]]`": DecodeModule,
    "`[engine]`": Engine,
    "One role or module": EngineChanges,
    "`[router]`": Router,
    "`[transfer]`": Transfer,
    "`[responses]`": Responses,
    "`[tenants]`": Tenants,
    "`[store]`": Store,
    "`[cluster]`": Cluster,
}
ROW = re.compile(r"^\| `(\w+)` \| [^|]+ \| ([^|]*) \|", re.MULTILINE)


def defaults_on_the_page(heading: str) -> dict[str, str]:
    text = PAGE.read_text().partition(f"## {heading}")[2].partition("\n## ")[0]
    return {key: default.strip(" `") for key, default in ROW.findall(text)}


def defaults_of(kind: type) -> dict[str, str | None]:
    """By key the default as the page writes it; None where its words are the page's own."""
    found: dict[str, str | None] = {}
    for field in dataclasses.fields(kind):
        if field.name in ("source", "overrides"):
            continue  # no key of the file
        if field.default is dataclasses.MISSING:
            found[field.name] = "none" if field.default_factory is not dataclasses.MISSING else "required"
        elif field.default == ():
            found[field.name] = "none"
        elif isinstance(field.default, bool):
            found[field.name] = str(field.default).lower()
        elif isinstance(field.default, str):
            found[field.name] = f'"{field.default}"'
        else:
            found[field.name] = None if field.default is None else str(field.default)
    return found


@pytest.mark.parametrize("heading", TABLES)
def test_keys_and_defaults_are_those_of_the_schema(heading: str) -> None:
    told, known = defaults_on_the_page(heading), defaults_of(TABLES[heading])
    assert told.keys() == known.keys()
    differing = {key: (told[key], known[key]) for key in known if known[key] not in (None, told[key])}
    assert not differing

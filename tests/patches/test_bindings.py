"""Each change, before and after, in an interpreter of its own; and that no place is forgotten.

One interpreter looks at all of them; each has a test of its own.
"""

import ast
import json
from functools import cache
from pathlib import Path

import pytest

from prefillshare.contract import BACKEND_NAME
from sglang_patches.bindings import CPU_PATCHES, ENGINE_PATCHES
from sglang_patches.changes import Binding, Patch, Registration
from sglang_patches.fingerprint import module_path

CHANGES = (*CPU_PATCHES, *ENGINE_PATCHES)
BINDINGS = [change for change in CHANGES if isinstance(change, Binding)]
REGISTRATIONS = [change for change in CHANGES if isinstance(change, Registration)]
PATCHES = [change for change in CHANGES if isinstance(change, Patch)]

LEFT = {
    "sglang.compile_deep_gemm": "a program of its own, which serves nobody",
}
"""Modules that keep upstream's class by intention, and why."""

LOOK = """
import functools, importlib, json, sys
from sglang_patches import bindings
from sglang_patches.changes import Binding, Patch, Registration
from sglang_patches.bindings import CPU_PATCHES

CHANGES = (*CPU_PATCHES, *bindings.ENGINE_PATCHES)

def live(change):
    module = importlib.import_module(change.need.symbol.module)
    if isinstance(change, Registration):
        registry, key = change.place()
        return registry.get(key)
    return functools.reduce(getattr, change.need.symbol.qualname.split("."), module)

def by_place(change):
    symbol = change.need.symbol
    places = (symbol.module, *change.places)
    return {place: getattr(importlib.import_module(place), symbol.qualname) for place in places}

def origin(value):
    return f"{getattr(value, '__module__', type(value).__module__)}:{getattr(value, '__name__', type(value).__name__)}"

def look():
    found = {}
    for change in CHANGES:
        key = change.needs[0].symbol.name
        if isinstance(change, Registration):
            found[f"{key} {change.key}"] = origin(live(change))
        elif isinstance(change, Binding):
            found[key] = {place: origin(value) for place, value in by_place(change).items()}
        elif isinstance(change, Patch):
            found[key] = change.is_applied()
    return found

before = look()
bases = {change.needs[0].symbol.name: live(change) for change in CHANGES if isinstance(change, Binding)}
bindings.apply(CPU_PATCHES)
bindings.apply()
inherited = {
    change.needs[0].symbol.name: issubclass(live(change), bases[change.needs[0].symbol.name])
    for change in CHANGES
    if isinstance(change, Binding)
}
print(json.dumps({"before": before, "after": look(), "inherited": inherited}))
"""


def ids(change):
    name = change.needs[0].symbol.name
    # A registry has a symbol of its own, and as many entries as were made.
    return f"{name} {change.key}" if isinstance(change, Registration) else name


@pytest.fixture(scope="module")
def seen(fresh):
    """What stands at each place before and after ``apply``."""
    done = fresh.run(LOOK)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("binding", BINDINGS, ids=ids)
def test_a_class_is_upstreams_before_and_ours_after(seen, binding):
    upstream = binding.need.symbol
    places = {upstream.module, *binding.places}
    name = upstream.name
    assert seen["before"][name] == dict.fromkeys(places, f"{upstream.module}:{upstream.qualname}")
    assert seen["after"][name] == dict.fromkeys(places, f"{binding.module}:{binding.name}")
    assert seen["inherited"][name]


@pytest.mark.parametrize("registration", REGISTRATIONS, ids=ids)
def test_an_entry_is_ours_after(seen, registration):
    ours = f"{registration.module}:{registration.name}"
    assert seen["before"][ids(registration)] != ours
    assert seen["after"][ids(registration)] == ours


def test_the_radix_cache_has_the_name_that_the_launcher_asks_for():
    assert BACKEND_NAME in {registration.key for registration in REGISTRATIONS}


@pytest.mark.parametrize("patch", PATCHES, ids=ids)
def test_a_function_is_wrapped_after(seen, patch):
    assert (seen["before"][ids(patch)], seen["after"][ids(patch)]) == (False, True)


@cache
def importers():
    """Class name -> modules of SGLang that import it at their top or stand on it, and from where."""
    wanted = {binding.need.symbol.qualname for binding in BINDINGS}
    root = module_path("sglang").parent
    found = {}
    for path in root.rglob("*.py"):
        text = path.read_text(encoding="utf-8", errors="replace")
        if any(name in text for name in wanted):
            for name, source in _imports(path, _parse(path), root):
                if name in wanted:
                    found.setdefault(name, {})[_dotted(path, root)] = source
    return found


@cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8", errors="replace"))


def _dotted(path: Path, root: Path) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path, tree, root):
    package = _dotted(path, root).split(".")
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            above = package[: -node.level] if node.level else []
            for alias in node.names:
                yield alias.name, ".".join([*above, node.module or ""])


@pytest.mark.parametrize("binding", BINDINGS, ids=ids)
def test_no_module_that_imports_the_class_is_forgotten(binding):
    upstream = binding.need.symbol
    found = {place for place, source in importers().get(upstream.qualname, {}).items() if source == upstream.module}
    assert found - LEFT.keys() == set(binding.places)


@cache
def heirs():
    """Class name -> modules in which upstream itself has a subclass of it."""
    root = module_path("sglang").parent / "srt"
    wanted = {binding.need.symbol.qualname for binding in BINDINGS}
    found = {}
    for path in root.rglob("*.py"):
        text = path.read_text(encoding="utf-8", errors="replace")
        if any(f"({name}" in text or f" {name}," in text or f".{name})" in text for name in wanted):
            for node in ast.walk(_parse(path)):
                for base in getattr(node, "bases", ()):
                    name = ast.unparse(base).rpartition(".")[2]
                    if name in wanted:
                        found.setdefault(name, set()).add(node.name)
    return found


HEIRS = {
    "TokenizerManager": {"TokenizerWorker"},  # several HTTP processes are refused (checks/settings.py)
    "OpenAIServingChat": {"OpenAIServingResponses"},  # it makes its replies itself
    "Sampler": {"_OracleSampler"},  # draws what a debugging run tells it to
}
"""Upstream's own subclasses of classes that are bound: they stand on upstream's class."""


@pytest.mark.parametrize("binding", BINDINGS, ids=ids)
def test_upstream_has_no_subclass_that_would_go_without_ours(binding):
    name = binding.need.symbol.qualname
    assert heirs().get(name, set()) == HEIRS.get(name, set())

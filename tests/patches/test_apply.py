"""All or none, once, and only on the SGLang that the patches were written for (I8).

Whatever touches the live engine runs in a fresh interpreter.
"""

import dataclasses
import subprocess
import sys

import pytest

from prefillshare.contract import PLUGINS
from sglang_patches import bindings as registry
from sglang_patches.bindings import ENGINE_PATCHES, PatchError, apply, problems
from sglang_patches.cpu.patches import CPU_PATCHES
from sglang_patches.patch import Patch, Symbol
from sglang_patches.plugin import EXIT_CODE

ALL_PATCHES = (*CPU_PATCHES, *ENGINE_PATCHES)

IMPORT_CHANGES_NOTHING = """
import sys
import sglang_patches, sglang_patches.bindings as registry, sglang_patches.plugin
assert not any(name.split(".")[0] in ("sglang", "torch") for name in sys.modules), "imported too much"
assert not registry.is_applied()
"""

PATCHED_ONCE = """
from sglang_patches.cpu.platform import activate
import inspect
from sglang_patches import bindings as registry
from sglang_patches.cpu.patches import CPU_PATCHES
from sglang_patches.bindings import ENGINE_PATCHES

def live(patch):
    holder, name = patch._owner()
    return inspect.getattr_static(holder, name)

wrapped = [p for p in ENGINE_PATCHES if p.wrap]
before = [live(p) for p in wrapped]
registry.apply(CPU_PATCHES)
registry.apply()
after = [live(p) for p in wrapped]
assert all(a is not b for a, b in zip(before, after)), "something was not replaced"
assert registry.is_applied() and registry.is_applied(CPU_PATCHES)
registry.apply()
assert [live(p) for p in wrapped] == after, "a second call changed something"

holder, name = wrapped[3]._owner()
setattr(holder, name, before[3])
assert not registry.is_applied(), "is_applied() does not look at the live object"
try:
    registry.apply()
except registry.PatchError as error:
    assert "already patched" in str(error), error
else:
    raise SystemExit("a half-patched engine was patched again")
print("passed")
"""

ALL_OR_NONE = """
import dataclasses
from sglang_patches import bindings as registry
from sglang_patches.bindings import ENGINE_PATCHES

def explode(original):
    raise RuntimeError("boom")

first, *others = ENGINE_PATCHES
broken = dataclasses.replace(others[2], wrap=explode)
try:
    registry.apply([first, others[0], broken])
except RuntimeError as error:
    assert str(error) == "boom"
assert not first.is_applied() and not others[0].is_applied()
print("passed")
"""

WITHOUT_A_LIBRARY = f"""
import os, sys
os.environ["SGLANG_PLUGINS"] = {PLUGINS!r}
sys.modules["re2"] = None  # as where it is not installed
from sglang.srt.plugins import load_plugins
load_plugins()
print("goes on")
"""


def run_in_fresh_interpreter(code):
    return subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)


def in_fresh_interpreter(code):
    done = run_in_fresh_interpreter(code)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_importing_the_package_changes_and_imports_nothing():
    in_fresh_interpreter(IMPORT_CHANGES_NOTHING)


def test_apply_replaces_every_symbol_once():
    assert in_fresh_interpreter(PATCHED_ONCE).endswith("passed\n")


def test_a_failure_on_the_way_leaves_nothing_patched():
    assert in_fresh_interpreter(ALL_OR_NONE).endswith("passed\n")


def test_a_patch_whose_library_is_missing_ends_the_process():
    done = run_in_fresh_interpreter(WITHOUT_A_LIBRARY)
    assert (done.returncode, done.stdout) == (EXIT_CODE, "")
    assert done.stderr.rstrip().splitlines()[-1].startswith("sglang_patches: ModuleNotFoundError")


@pytest.mark.parametrize("patch", ALL_PATCHES, ids=lambda patch: patch.symbol.name)
def test_every_symbol_is_the_one_that_was_read(patch):
    assert patch.symbol.problem() is None


def test_a_changed_symbol_is_refused_with_its_place():
    changed = dataclasses.replace(
        ENGINE_PATCHES[0], symbol=dataclasses.replace(ENGINE_PATCHES[0].symbol, fingerprint="0" * 16)
    )
    with pytest.raises(PatchError, match=r"server_args\.py:\d+\) has fingerprint [0-9a-f]{16}, expected 0000"):
        apply([changed])


def test_a_missing_symbol_is_refused_by_name():
    gone = Patch(symbol=Symbol(module="sglang.srt.server_args", qualname="Nothing", fingerprint="0"), why="test")
    assert problems([gone]) == ["sglang.srt.server_args.Nothing does not exist in the installed SGLang"]


@pytest.mark.parametrize("found", ["0.5.18", None])
def test_another_version_is_refused_whatever_its_source(monkeypatch, found):
    monkeypatch.setattr(registry, "installed_sglang", lambda: found)
    with pytest.raises(PatchError, match=r"expected 0\.5\.17"):
        apply()

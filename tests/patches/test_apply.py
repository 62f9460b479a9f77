"""All or none, once, and only on the SGLang that the patches were written for (I8).

Whatever touches the live engine runs in an interpreter of its own.
"""

import dataclasses
import subprocess
import sys

import pytest

from prefillshare.contract import PLUGINS
from sglang_patches import bindings
from sglang_patches.bindings import CPU_PATCHES, ENGINE_PATCHES, PatchError, apply, problems
from sglang_patches.changes import Reliance, Symbol, needs_of
from sglang_patches.plugin import EXIT_CODE

PROGRAMS = ("every symbol once", "after a failure nothing", "what somebody else has bound is refused")
ALL_NEEDS = tuple(needs_of((*CPU_PATCHES, *ENGINE_PATCHES)))

IMPORT_CHANGES_NOTHING = """
import sys
import sglang_patches, sglang_patches.bindings as bindings, sglang_patches.plugin
assert not any(name.split(".")[0] in ("sglang", "torch") for name in sys.modules), "imported too much"
assert not bindings.is_applied()
"""

PATCHED_ONCE = """
from sglang_patches.cpu.platform import activate
import inspect
from sglang_patches import bindings
from sglang_patches.changes import Entry, Reliance
from sglang_patches.bindings import CPU_PATCHES
from sglang_patches.bindings import ENGINE_PATCHES

def live(step):
    if isinstance(step, Entry):
        return step.registry.get(step.key)
    return inspect.getattr_static(step.holder, step.name)

wanted = [change for change in ENGINE_PATCHES if not isinstance(change, Reliance)]
for change in wanted:
    change.load()
steps = [step for change in wanted for step in change.steps()]
before = [live(step) for step in steps]
bindings.apply(CPU_PATCHES)
bindings.apply()
after = [live(step) for step in steps]
assert all(a is not b for a, b in zip(before, after)), "something was not replaced"
assert bindings.is_applied() and bindings.is_applied(CPU_PATCHES)
bindings.apply()
assert [live(step) for step in steps] == after, "a second call changed something"

setattr(steps[3].holder, steps[3].name, before[3])
assert not bindings.is_applied(), "is_applied() does not look at the live object"
try:
    bindings.apply()
except bindings.PatchError as error:
    assert "already patched" in str(error), error
else:
    raise SystemExit("a half-patched engine was patched again")
print("passed")
"""

ALL_OR_NONE = """
from sglang_patches import bindings
from sglang_patches.changes import Assignment, Binding, Patch
from sglang_patches.bindings import ENGINE_PATCHES

make = Assignment.make
def make_or_explode(step):
    if getattr(step, "name", None) == "_setup_routes":  # of the last file
        raise RuntimeError("boom")
    make(step)

Assignment.make = make_or_explode
try:
    bindings.apply()
except RuntimeError as error:
    assert str(error) == "boom"
assert not any(change.is_applied() for change in ENGINE_PATCHES if isinstance(change, Binding | Patch))
Assignment.make = make
bindings.apply()
assert bindings.is_applied()
print("passed")
"""

SOMEBODY_ELSES = """
from sglang.srt.managers import schedule_policy
from sglang_patches import bindings

class PrefillAdder(schedule_policy.PrefillAdder):
    pass

schedule_policy.PrefillAdder = PrefillAdder
try:
    bindings.apply()
except bindings.PatchError as error:
    assert "already patched by someone else" in str(error) and "PrefillAdder" in str(error), error
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


def test_importing_the_package_changes_and_imports_nothing():
    command = [sys.executable, "-W", "ignore", "-c", IMPORT_CHANGES_NOTHING]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("program", [PATCHED_ONCE, ALL_OR_NONE, SOMEBODY_ELSES], ids=PROGRAMS)
def test_all_changes_are_made_or_none(fresh, program):
    done = fresh.run(program)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.endswith("passed\n")


def test_a_patch_whose_library_is_missing_ends_the_process(fresh):
    done = fresh.run(WITHOUT_A_LIBRARY)
    assert (done.returncode, done.stdout) == (EXIT_CODE, "")
    assert done.stderr.rstrip().splitlines()[-1].startswith("sglang_patches: ModuleNotFoundError")


@pytest.mark.parametrize("need", ALL_NEEDS, ids=lambda need: need.symbol.name)
def test_every_symbol_is_the_one_that_was_read(need):
    assert need.symbol.problem() is None


def changed(fingerprint="0" * 16, **fields):
    """A table of one symbol that is not as it was read."""
    need = ALL_NEEDS[-1]
    symbol = dataclasses.replace(need.symbol, fingerprint=fingerprint, **fields)
    return [Reliance(need=dataclasses.replace(need, symbol=symbol))]


def test_a_changed_symbol_is_refused_with_its_place():
    unfit = changed(module="sglang.srt.server_args", qualname="ServerArgs.check_server_args")
    assert "expected 0000" in problems(unfit)[0]
    with pytest.raises(PatchError, match=r"server_args\.py:\d+\) has fingerprint [0-9a-f]{16}, expected 0000"):
        apply([*unfit, ENGINE_PATCHES[0]])


def test_a_missing_symbol_is_refused_by_name():
    gone = changed(module="sglang.srt.server_args", qualname="Nothing")
    assert problems(gone) == ["sglang.srt.server_args.Nothing does not exist in the installed SGLang"]
    assert Symbol(module="sglang.srt.nowhere", qualname="Nothing", fingerprint=None).problem() is not None


@pytest.mark.parametrize("found", ["0.5.18", None])
def test_another_version_is_refused_whatever_its_source(monkeypatch, found):
    monkeypatch.setattr(bindings, "installed_sglang", lambda: found)
    with pytest.raises(PatchError, match=r"expected 0\.5\.17"):
        apply()

"""``python -m sglang_patches report``."""

import json
import os
import subprocess
import sys

import pytest

from sglang_patches.__main__ import CUT_OFF, main
from sglang_patches.bindings import CPU_PATCHES, ENGINE_PATCHES
from sglang_patches.changes import needs_of

COMMAND = (sys.executable, "-m", "sglang_patches")
NEEDS = tuple(needs_of((*ENGINE_PATCHES, *CPU_PATCHES)))


def report(*arguments):
    return subprocess.run([*COMMAND, "report", *arguments], capture_output=True, text=True, check=False)


def test_the_table_has_every_patch_with_its_place_and_state():
    done = report()
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[0].split() == ["group", "action", "target", "upstream", "state", "why"]
    assert len(lines) == 1 + len(NEEDS) + 3
    assert any("sglang/srt/lora/lora_manager.py:428" in line and " ready " in line for line in lines)
    assert lines[-1] == "SGLang 0.5.17 (pinned 0.5.17): every patch fits"


def test_json_says_the_same_to_a_script():
    data = json.loads(report("--json").stdout)
    assert data["ok"] is True
    assert data["sglang"] == data["pinned"] == "0.5.17"
    assert data["counts"]["bindings"] == sum(row["action"] == "bind" for row in data["patches"])
    assert len(data["patches"]) == len(NEEDS)
    assert {row["state"] for row in data["patches"]} == {"ready", "as expected"}


@pytest.mark.parametrize("arguments", ["report", "report --json"])
def test_a_reader_that_leaves_ends_it_without_a_word(arguments: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run([*COMMAND, *arguments.split()], stdout=writer, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (CUT_OFF, b"")


@pytest.mark.parametrize("arguments", ["report", "arguments", "diff somewhere"])
def test_without_sglang_it_says_so_in_a_line(arguments: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("sglang_patches.__main__.installed_sglang", lambda: None)
    assert main(arguments.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "pip install 'prefillshare[engine]'" in printed.err

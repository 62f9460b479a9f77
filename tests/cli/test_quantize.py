"""`prefillshare quantize` as a user meets it: the plan, the report, the mistakes and their exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from prefillshare.modules.manifest import read_manifest
from tests.support.random_models import make_family
from tests.support.training_runs import write_rows

FILE = """
name = "small"
output = "small"
[base]
path = "base"
[module]
path = "math"
[codebooks]
b = 5
g = 32
samples = 1024
rounds = 2
[data]
file = "rows.jsonl"
[data.columns]
prompt = "question"
answer = "answer"
[moments]
rows = 0
[tuning]
steps = 1
size = 2
[report]
rows = 0
suite = "tiny-math"
problems = 2
"""


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "prefillshare", "quantize", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantize")
    make_family(folder, ("math",))
    write_rows(folder / "rows.jsonl")
    (folder / "small.toml").write_text(FILE)
    return folder / "small.toml"


@pytest.mark.slow
def test_a_module_is_made_and_reported_and_not_made_twice(file: Path) -> None:
    done = run(str(file), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["module"] == str(file.parent / "small")
    assert report["accuracy"].keys() == {"full", "k-means", "module"}
    assert all(found["num_problems"] == 2 for found in report["accuracy"].values())
    assert 'serve it: a [[decode]] table with kind = "full"' in done.stderr
    manifest = read_manifest(file.parent / "small")
    assert manifest is not None
    assert manifest.kind == "full"

    again = run(str(file))
    assert again.returncode == 6
    assert "is finished: launch the module, or choose another output" in again.stderr


def test_a_mistake_is_one_line_and_a_code(file: Path) -> None:
    broken = file.with_name("broken.toml")
    broken.write_text(FILE.replace("rounds", "round").replace('"small"', '"broken"'))
    done = run(str(broken), "--dry-run")
    assert done.returncode == 2
    assert "[codebooks] has the unknown key 'round': did you mean 'rounds'?" in done.stderr
    assert "Traceback" not in done.stderr

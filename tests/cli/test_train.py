"""`prefillshare train` as a user meets it: the plan, the mistakes, the exit codes."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.random_models import make_base
from tests.support.training_runs import write_training
from tests.support.waiting import wait_until


def _run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "prefillshare", "train", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def training_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("train")
    file = write_training(directory, make_base(directory / "base", hidden=32, heads=2, kv_heads=1))
    with (directory / "rows.jsonl").open("a") as rows:
        rows.write('{"question": "?", "answer": ""}\n')
    return file


def test_a_dry_run_says_what_is_needed_and_leaves_nothing(training_file: Path) -> None:
    done = _run(str(training_file), "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert (plan["num_rows"], plan["num_used"], plan["left_out"]["empty"]) == (13, 12, 1)
    assert plan["num_tokens"] == plan["num_prompt_tokens"] + plan["num_target_tokens"]
    assert plan["num_steps"] == 6
    # Rank 32 on seven projections of two layers of a model of width 32.
    assert plan["num_trained"] == 2 * 32 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64))
    assert plan["memory_bytes"] > 4 * plan["num_parameters"] + 16 * plan["num_trained"]
    assert plan["device_bytes"] > plan["memory_bytes"]
    assert not (training_file.parent / "out").exists()


def test_a_mistake_is_one_line_and_a_code(training_file: Path) -> None:
    broken = training_file.with_name("broken.toml")
    broken.write_text(training_file.read_text().replace('"answer"', '"answr"'))
    done = _run(str(broken), "--dry-run")
    assert done.returncode == 6
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "has no column 'answr': did you mean 'answer'?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "term"])
def test_who_interrupts_a_run_is_told_how_it_goes_on(training_file: Path, number: int, code: int) -> None:
    output = training_file.parent / f"interrupted-{number}"
    command = ("train", str(training_file), "--out", str(output), "--set", "optimizer.max_steps=100000")
    run = subprocess.Popen(
        [sys.executable, "-m", "prefillshare", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: (output / "run" / "log.jsonl").is_file() or run.poll() is not None, "no step is logged")
    finally:
        run.send_signal(number)
        _, said = run.communicate(timeout=300)
    assert run.returncode == code, said
    [checkpoint] = re.findall(r"^the same command with --resume goes on from (checkpoint-\d+)$", said, re.MULTILINE)
    assert (output / "run" / checkpoint / "adapter_model.safetensors").is_file()
    assert "Traceback" not in said
    assert said.endswith("interrupted\n") == (number == signal.SIGINT)

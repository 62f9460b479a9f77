"""`init` and `convert` write files that `launch --dry-run` takes, and replace none without being told to."""

import subprocess
import sys
from pathlib import Path

import pytest

from prefillshare.config import load_deployment
from prefillshare.serving.machine.ports import free_port
from tests.support.engines import MODELS_DIR
from tests.support.tmux import Terminal, prefillshare

TINY = MODELS_DIR / "tiny"


def run(folder: Path, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "prefillshare", *arguments],
        cwd=folder,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_init_writes_what_is_served_and_replaces_nothing(tmp_path: Path) -> None:
    options = [
        "--base",
        str(TINY / "base"),
        "--module",
        f"math={TINY / 'math'}",
        "--module",
        f"old={TINY / 'naive/code'}",
    ]
    done = run(tmp_path, "init", "mine.toml", *options)
    assert done.returncode == 0, done.stderr
    config = load_deployment(tmp_path / "mine.toml")
    assert (config.name, [(module.name, module.share) for module in config.decode]) == (
        "mine",
        [("math", True), ("old", False)],
    )
    before = (tmp_path / "mine.toml").read_text()
    done = run(tmp_path, "init", "mine.toml", *options, "--topology", "disaggregated")
    assert (done.returncode, "--force" in done.stderr) == (2, True)
    assert (tmp_path / "mine.toml").read_text() == before
    done = run(tmp_path, "launch", "mine.toml", "--dry-run", "--port", str(free_port()))
    assert done.returncode == 0, done.stderr


def test_init_for_the_hub_and_for_workers(tmp_path: Path) -> None:
    options = ["--base", "Qwen/Qwen3-8B", "--module", "math=me/math", "--full", "code=me/code"]
    done = run(tmp_path, "init", "--topology", "disaggregated", *options)
    assert done.returncode == 0, done.stderr
    config = load_deployment(tmp_path / "deployment.toml")
    assert (config.prefill.hub, [module.kind for module in config.decode]) == ("Qwen/Qwen3-8B", ["lora", "full"])


def test_init_lets_an_ordinary_adapter_compute_its_prompts_in_either_topology(tmp_path: Path) -> None:
    modules = ["--module", f"math={TINY / 'math'}", "--module", f"own={TINY / 'naive/code'}"]
    done = run(tmp_path, "init", "--base", str(TINY / "base"), *modules, "--topology", "disaggregated")
    assert done.returncode == 0, done.stderr
    config = load_deployment(tmp_path / "deployment.toml")
    assert [(module.name, module.share) for module in config.decode] == [("math", True), ("own", False)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "there is no base: add --base"),
        (["--base", str(TINY / "base")], "there is no decode module: add --module"),
        (["--base", str(TINY / "math"), "--module", "a=b/c"], "is a LoRA adapter: name the model"),
        (["--base", "nowhere", "--module", "a=b/c"], "--base nowhere does not exist"),
        (["--base", str(TINY / "base"), "--module", f"a={TINY}"], "holds neither a model nor an adapter"),
        (["--base", str(TINY / "base"), "--module", f"a={TINY / 'base'}"], "choose --topology disaggregated"),
        (["--base", str(TINY / "base"), "--module", "a="], "write NAME=WHERE"),
    ],
)
def test_init_says_what_is_missing_and_writes_nothing(tmp_path: Path, options: list[str], said: str) -> None:
    done = run(tmp_path, "init", *options)
    assert (done.returncode, said in " ".join(done.stderr.split())) == (2, True), done.stderr
    assert not list(tmp_path.iterdir())


def test_convert_reads_a_script_from_stdin_or_a_file_or_the_command_itself(tmp_path: Path) -> None:
    line = f"vllm serve {TINY / 'base'} --enable-lora --lora-modules math={TINY / 'math'} --mystery --api-key k"
    (tmp_path / "serve.sh").write_text(f"#!/bin/sh\nexec {line}\n")
    shown = [
        run(tmp_path, "convert", "serve.sh"),
        run(tmp_path, "convert", stdin=line),
        run(tmp_path, "convert", "--", *line.split()),
    ]
    assert len({done.stdout for done in shown}) == 1
    assert "not in the file: --mystery: no counterpart is known" in shown[0].stderr
    assert "set PREFILLSHARE_API_KEY" in shown[0].stderr
    done = run(tmp_path, "convert", "serve.sh", "-o", "made.toml")
    assert (tmp_path / "made.toml").read_text() == shown[0].stdout
    assert "`prefillshare launch made.toml --dry-run`" in done.stderr
    assert run(tmp_path, "launch", "made.toml", "--dry-run", "--port", str(free_port())).returncode == 0
    assert run(tmp_path, "convert", "serve.sh", "-o", "made.toml").returncode == 2
    assert run(tmp_path, "convert", "serve.sh", "-o", "made.toml", "--force").returncode == 0


def test_convert_says_what_has_to_be_corrected(tmp_path: Path) -> None:
    line = f"vllm serve {TINY / 'base'} --lora-modules math=/nowhere/math"
    done = run(tmp_path, "convert", "-o", "made.toml", "--", *line.split())
    assert done.returncode == 0
    assert "it cannot be served yet" in done.stderr
    assert "# Not found on this machine: correct it." in (tmp_path / "made.toml").read_text()
    assert run(tmp_path, "convert", "nowhere.sh").returncode == 2


def test_init_asks_at_a_terminal_and_asks_again_after_a_slip(tmp_path: Path) -> None:
    answers = [
        ("The shared base", "/nowhere/base"),
        ("/nowhere/base does not exist", str(TINY / "base")),
        ("A decode module, NAME=WHERE", "math="),
        ("write NAME=WHERE", f"math={TINY / 'math'}"),
        ("One more, or Enter to end", ""),
        ("How they are served", "everywhere"),
        ("is neither colocated nor disaggregated", "colocated"),
    ]
    with Terminal(prefillshare("init", "mine.toml"), tmp_path, width=200) as terminal:
        for asked, answer in answers:
            terminal.wait_for(asked)
            if answer:
                terminal.press("-l", answer)
            terminal.press("Enter")
        assert terminal.wait_for_end() == 0
    assert [module.name for module in load_deployment(tmp_path / "mine.toml").decode] == ["math"]


def test_a_name_that_is_no_text_leaves_no_file(tmp_path: Path) -> None:
    words = ["--", "vllm", "serve", b"b\xff", "--enable-lora", "--lora-modules", "a=b"]
    command = [sys.executable, "-m", "prefillshare", "convert", "-o", str(tmp_path / "made.toml"), *words]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert (done.returncode, b"is no UTF-8" in done.stderr) == (2, True)
    assert not (tmp_path / "made.toml").exists()


def test_a_file_without_an_end_is_not_read_to_one(tmp_path: Path) -> None:
    done = run(tmp_path, "convert", "/dev/zero")
    assert (done.returncode, "/dev/zero has more than 4 MiB" in done.stderr) == (2, True)

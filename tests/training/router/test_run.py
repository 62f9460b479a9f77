"""`prefillshare train --router`: what it reads, what it computes, what it leaves."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from prefillshare.config import load_router_training
from prefillshare.errors import ConfigError, TrainingError
from prefillshare.modules.fingerprint import prefill_fingerprint
from prefillshare.modules.heads import read_head
from prefillshare.training.data.prompts import prepare_prompts
from prefillshare.training.finetune.models import load_tokenizer
from prefillshare.training.router.run import RouterRun
from prefillshare.training.router.states import last_states
from tests.support.training_runs import Watcher
from tests.training.router.conftest import NUM_ROWS


def run(file: Path, output: str = "out", *changes: str) -> Path:
    told = (f'output="{output}"', *changes)
    return RouterRun(load_router_training(file, told), Watcher()).run()[0]


def test_states_are_those_of_the_last_token_whatever_stands_beside_it(router_file: Path) -> None:
    from transformers import AutoModel

    training = load_router_training(router_file)
    base = training.base.path
    assert base is not None
    tokenizer = load_tokenizer(base)
    conversations, report = prepare_prompts(training.modules[0].data, tokenizer, 200)
    assert (report.num_rows, report.num_used, len(conversations)) == (NUM_ROWS + 2, NUM_ROWS, NUM_ROWS)
    prompts = [prompt for conversation in conversations for prompt in conversation]
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "add 2 and 14 please"}], add_generation_prompt=True, return_dict=False
    )
    assert prompts[2] == list(rendered)
    found = last_states(base, prompts, size_tokens=64, dtype="fp32")
    model = AutoModel.from_pretrained(base, dtype=torch.float32).eval()
    with torch.no_grad():
        plain = np.stack([model(torch.tensor([prompt])).last_hidden_state[0, -1].numpy() for prompt in prompts])
    print("largest difference of a state:", float(np.abs(found - plain).max()))
    np.testing.assert_allclose(found, plain, atol=2e-5)


def test_a_run_leaves_a_head_of_its_base_and_repeats(router_file: Path) -> None:
    directory = run(router_file)
    head = read_head(directory)
    manifest = head.manifest
    assert (manifest.labels, manifest.hidden_size) == (("sums", "calls"), 32)
    assert manifest.prefill_fingerprint == prefill_fingerprint(router_file.parent / "base")
    assert manifest.report["num_right"] == manifest.report["num_prompts"] == 6
    assert manifest.training["head"] == {"weight_decay": 1e-3, "held_out": 0.2}
    assert sorted(file.name for file in directory.iterdir()) == ["router.json", "router.safetensors"]
    again = read_head(run(router_file, "again"))
    assert (again.weight == head.weight).all()
    assert again.manifest.data_sha256 == manifest.data_sha256
    other = read_head(run(router_file, "other", "seed=4"))
    assert other.manifest.data_sha256 != manifest.data_sha256


def test_an_output_that_cannot_be_is_said_before_any_work(router_file: Path) -> None:
    training, watcher = load_router_training(router_file, ['output="/proc/out"']), Watcher()
    with pytest.raises(TrainingError, match="could not be written to /proc/out"):
        RouterRun(training, watcher).run()
    assert watcher.said == []


def test_nothing_is_overwritten(router_file: Path) -> None:
    (router_file.parent / "out").mkdir()
    (router_file.parent / "out" / "mine").write_text("a")
    with pytest.raises(TrainingError, match="exists and is not empty"):
        run(router_file)


def test_few_conversations_are_refused_by_the_modules_name(router_file: Path) -> None:
    data = router_file.with_name("calls.jsonl")
    data.write_text("\n".join(data.read_text().splitlines()[:9]) + "\n")
    with pytest.raises(TrainingError, match="module 'calls' has 9 usable conversations"):
        run(router_file)


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ('name = "calls"', 'name = "sums"', "'sums' stands in two"),
        ('name = "calls"', 'name = "a b"', "must be that of a module"),
        ('file = "calls.jsonl"', 'file = "call.jsonl"', "data file 'call.jsonl' does not exist"),
        ("seed = 3", "seed = -1", "seed is -1"),
        ("seed = 3", "seeds = 3", "unknown key 'seeds': did you mean 'seed'"),
        ("[base]", "[head]\nheld_out = 1.0\n[base]", "held_out is 1.0: it must lie between 0 and 1"),
        ("[base]", "[head]\nweight_decay = -1.0\n[base]", "weight_decay is -1.0"),
        ("[base]", "[passes]\nmax_tokens = 0\n[base]", "max_tokens"),
    ],
)
def test_mistakes_in_the_file_are_named(router_file: Path, before: str, after: str, reason: str) -> None:
    text = router_file.read_text()
    assert before in text
    router_file.write_text(text.replace(before, after))
    with pytest.raises(ConfigError, match=reason):
        load_router_training(router_file)


def test_one_module_is_no_choice(router_file: Path) -> None:
    text = router_file.read_text()
    router_file.write_text(text[: text.index("[[modules]]", text.index("[[modules]]") + 1)])
    with pytest.raises(ConfigError, match=r"there are 1 \[\[modules\]\]: a choice needs 2"):
        load_router_training(router_file)


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-m", "prefillshare", "train", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)


def test_a_plan_says_what_a_run_would_do_and_leaves_nothing(router_file: Path) -> None:
    plan = RouterRun(load_router_training(router_file), Watcher()).plan()
    text = "\n".join(plan.lines)
    assert "sums: rows      32 from" in text
    assert "sums:     row 32: " in text
    assert "prompts   48 to fit on, 6 for how sure it may be, 6 to try it on" in text
    assert plan.figures["prompts"] == {"fitted": 48, "calibration": 6, "trial": 6}
    assert not (router_file.parent / "out").exists()


@pytest.mark.slow
def test_the_command_trains(router_file: Path) -> None:
    done = command(str(router_file), "--router", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["classifier"], told["num_right"]) == (str(router_file.parent / "out"), 6)
    assert "for \\ chosen" in done.stderr
    assert 'use it: [aliases.auto] with default = "sums" and classifier = ' in done.stderr
    again = command(str(router_file), "--router")
    assert again.returncode == 6
    assert "exists and is not empty: choose another output" in again.stderr


def test_the_two_kinds_of_files_are_told_apart(router_file: Path) -> None:
    other = router_file.with_name("module.toml")
    other.write_text('name = "a"\noutput = "b"\nkind = "lora"\n[base]\npath = "base"\n[data]\nfile = "sums.jsonl"\n')
    done = command(str(other), "--router")
    assert "this is the training file of a module, with [data] of its own: leave --router out" in done.stderr
    assert "run it with `prefillshare train --router`" in command(str(router_file)).stderr
    assert "leave --resume out" in command(str(router_file), "--router", "--resume").stderr

"""`prefillshare check` and `adapt`, the two commands for adapters that were trained elsewhere."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from prefillshare.cli.adapter_options import base_of, data_of
from prefillshare.cli.app import app
from prefillshare.cli.commands.check import _adapt_command, _verdict
from prefillshare.errors import ConfigError, PrefillShareError
from prefillshare.modules.adapter import read_adapter
from prefillshare.modules.manifest import read_manifest
from tests.support.random_models import make_adapter, make_base
from tests.support.training_runs import write_rows


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, an ordinary adapter on it and rows."""
    folder = tmp_path_factory.mktemp("adapters")
    base = make_base(folder / "base", hidden=32, heads=2, kv_heads=1)
    make_adapter(folder / "sums", base, "sums", seed=1, objective="full-ft", rank=4)
    write_rows(folder / "rows.jsonl")
    return folder


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_check_tells_what_sharing_costs(family: Path) -> None:
    asked = ("check", str(family / "sums"), "--data", str(family / "rows.jsonl"), "--base", str(family / "base"))
    done = run(*asked, "--json")
    assert done.exit_code == 0, done.output
    own, shared = json.loads(done.stdout)
    assert (own["sharing_ratio"], shared["sharing_ratio"]) == (0, 1)
    assert own["num_tokens"] == shared["num_tokens"] > 12
    assert own["loss"] != shared["loss"]
    assert 0 <= own["num_right"] <= own["num_tokens"]
    assert "loss per token of answers" in run(*asked).output


def test_check_names_the_command_that_goes_on(family: Path, tmp_path: Path) -> None:
    """With all that was given: without --base, it would fetch one from the hub."""
    rows = tmp_path / "two rows.jsonl"
    rows.write_text('{"q": "?", "a": "!"}\n{"q": "??", "a": "!!"}\n')
    asked = (
        str(family / "sums"),
        "--data",
        str(rows),
        "--base",
        str(family / "base"),
        "--prompt",
        "q",
        "--answer",
        "a",
    )
    done = run("check", *asked)
    assert done.exit_code == 0, done.output
    # An adapter of random weights knows none of them, over any KV.
    assert "is this the data that it learned" in done.output
    assert _adapt_command(family / "sums", dict(zip(asked[1::2], asked[2::2], strict=True))) == (
        f"prefillshare adapt {shlex.join(asked)}"
    )
    assert _verdict(0.1, "prefillshare adapt X").endswith("or train it on with prefillshare adapt X")


def test_a_module_that_learned_to_share_is_better_when_it_does(family: Path) -> None:
    module = family / "learned"
    rows = ("--data", str(family / "rows.jsonl"), "--base", str(family / "base"))
    done = run(
        "adapt", str(family / "sums"), *rows, "--output", str(module), "--steps", "12", "--batch", "4",
        "--learning-rate", "0.01", "--held-out", "2", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1]) == {"module": str(module)}
    assert read_adapter(module, "learned").rank == 4
    manifest = read_manifest(module)
    assert manifest is not None
    assert manifest.shares_prefill
    before, after = (json.loads(run("check", str(path), *rows, "--json").stdout) for path in (family / "sums", module))
    assert after[1]["loss"] < before[1]["loss"]
    assert after[1]["loss"] < after[0]["loss"]
    again = run("adapt", str(family / "sums"), *rows, "--output", str(module))
    assert isinstance(again.exception, PrefillShareError)
    assert "choose another output" in str(again.exception)


def test_a_dry_run_starts_nothing(family: Path) -> None:
    rows = ("--data", str(family / "rows.jsonl"), "--base", str(family / "base"))
    done = run("adapt", str(family / "sums"), *rows, "--dry-run", "--any-ratio")
    assert done.exit_code == 0, done.output
    assert "teacher   the adapter as it is" in done.output
    assert "sharing   0% to 100% of a prompt" in done.output
    plain = run("adapt", str(family / "sums"), *rows, "--dry-run", "--no-distil")
    assert "tokens" in plain.output
    assert not {"teacher", "sharing"} & set(plain.output.split())
    assert not (family / "sums-shared").exists()


def test_the_base_is_the_given_one_or_the_adapters(
    family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert base_of(family / "sums", str(family / "base")).path == family / "base"
    assert base_of(family / "sums", "Qwen/Qwen3-8B").hub == "Qwen/Qwen3-8B"
    capsys.readouterr()
    assert base_of(family / "sums", None).hub == "prefillshare/random-base"
    assert "prefillshare/random-base, as the adapter says" in (said := capsys.readouterr().err)
    assert "--base" in said
    folder = tmp_path / "sums"
    shutil.copytree(family / "sums", folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    with pytest.raises(ConfigError, match="does not say what its base is: add --base"):
        base_of(folder, None)
    with pytest.raises(ConfigError, match=r"--base \./nowhere does not exist"):
        base_of(folder, "./nowhere")


@pytest.mark.parametrize(
    ("row", "prompt", "answer"),
    [
        ({"prompt": "?", "answer": "!"}, "prompt", "answer"),
        ({"prompt": "?", "completion": "!"}, "prompt", "completion"),
        ({"instruction": "?", "input": "", "output": "!"}, "instruction", "output"),
    ],
)
def test_columns_are_known_by_their_names(tmp_path: Path, row: dict[str, str], prompt: str, answer: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    columns = data_of(str(file), messages=None, prompt=None, answer=None).columns
    assert columns is not None
    assert (columns.prompt, columns.answer) == (prompt, answer)


def test_a_first_row_that_is_damaged_hides_no_columns(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "?"\n{"question": "?", "answer": "!"}\n')
    columns = data_of(str(file), messages=None, prompt=None, answer=None).columns
    assert columns is not None
    assert columns.prompt == "question"
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(b"not packed")
    with pytest.raises(ConfigError, match=r"rows.jsonl.gz has no row that could be read"):
        data_of(str(packed), messages=None, prompt=None, answer=None)


@pytest.mark.parametrize(
    ("row", "options", "said"),
    [
        ({"text": "?", "label": "!"}, {}, "has the columns label, text: say which hold what by --messages"),
        (None, {}, "has no row that could be read: give a file with conversations"),
        ({"text": "?"}, {"messages": "chat", "prompt": "text"}, "messages stands beside prompt"),
    ],
)
def test_unknown_columns(tmp_path: Path, row: object, options: dict[str, str], said: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("" if row is None else json.dumps(row) + "\n")
    with pytest.raises(ConfigError, match=said):
        data_of(str(file), **{"messages": None, "prompt": None, "answer": None, **options})


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (".", {}, r"--data \. is no file: give a file, or one of gsm8k"),
        ("gsm9k", {}, "--data gsm9k does not exist: give a file, or one of gsm8k"),
        ("gsm8k", {"messages": "chat"}, "--data gsm8k has its own mapping"),
    ],
)
def test_unknown_data(name: str, options: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        data_of(name, **{"messages": None, "prompt": None, "answer": None, **options})

"""Command lines of vLLM and SGLang into deployment files: nothing is dropped silently, and what is written loads."""

import tomllib
from pathlib import Path

import pytest

from prefillshare.config import load_deployment
from prefillshare.drafts.command_line import find_command
from prefillshare.drafts.convert import Converted, convert
from prefillshare.drafts.from_sglang import SGLANG
from prefillshare.drafts.from_vllm import VLLM
from prefillshare.errors import ConfigError
from prefillshare.modules.deployment import resolve
from prefillshare.serving.launch import plan
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.plan.known_options import known_options
from tests.support.engines import MODELS_DIR

TINY = MODELS_DIR / "tiny"
VLLM_LINE = (
    "vllm serve tiny/base --enable-lora --lora-modules math=tiny/math code=tiny/naive/code --max-lora-rank 32 "
    "--max-loras 4 -tp 1 --max-model-len 2K --gpu-memory-utilization 0.8 --max-num-seqs 16 --dtype float32 --seed 3 "
    "--tool-call-parser llama3_json --enable-auto-tool-choice --api-key secret-key --host 0.0.0.0 --port 8000 "
    "--served-model-name tiny further --speculative-config {} --mystery 4 5"
)
SGLANG_LINE = (
    "python -m sglang.launch_server --model-path tiny/base --lora-paths math=tiny/math tiny/naive/code "
    "--max-loras-per-batch 3 --tp 1 --context-length 2048 --page-size 4 --disable-overlap-schedule --api-key "
    "secret-key --speculative-algorithm EAGLE --log-level warning --enable-metrics --chunked-prefill-size -1 --mystery"
)


def convert_line(line: str) -> Converted:
    command = find_command(line)
    return convert(command, VLLM if command.server == "vllm" else SGLANG, MODELS_DIR)


def write(converted: Converted, folder: Path) -> Path:
    file = folder / "made.toml"
    file.write_text(converted.draft.render(file, MODELS_DIR))
    return file


def test_a_command_of_vllm_becomes_a_file_that_is_served(tmp_path: Path) -> None:
    converted = convert_line(VLLM_LINE)
    file = write(converted, tmp_path)
    config = load_deployment(file)
    assert [(module.name, module.kind, module.share) for module in config.decode] == [
        ("math", "lora", True),
        ("code", "lora", False),
    ]
    engine = config.engine
    assert (engine.context_length, engine.mem_fraction_static, engine.max_running_requests) == (2048, 0.8, 16)
    assert (engine.dtype, engine.random_seed, engine.tool_call_parser) == ("float32", 3, "llama3")
    assert plan(resolve(config), LaunchOptions())
    assert converted.launch == ["--host", "0.0.0.0", "--port", "8000"]
    assert converted.needs_key
    assert "secret-key" not in file.read_text()


def test_a_command_of_sglang_becomes_a_file_that_is_served(tmp_path: Path) -> None:
    converted = convert_line(SGLANG_LINE)
    config = load_deployment(write(converted, tmp_path))
    assert [(module.name, module.share) for module in config.decode] == [("math", True), ("code", False)]
    engine = config.engine
    assert (engine.context_length, engine.page_size, engine.overlap_schedule) == (2048, 4, False)
    assert engine.extra_args == ("--log-level", "warning")
    assert plan(resolve(config), LaunchOptions())


@pytest.mark.parametrize(
    ("line", "left", "implied"),
    [
        (VLLM_LINE, ["--speculative-config {}", "--mystery 4 5", "'further'"], ["--max-lora-rank", "--enable-lora"]),
        (
            SGLANG_LINE,
            ["--speculative-algorithm EAGLE", "--mystery", "--chunked-prefill-size -1"],
            ["--enable-metrics", "--max-loras-per-batch"],
        ),
    ],
)
def test_nothing_is_dropped_silently(line: str, left: list[str], implied: list[str], tmp_path: Path) -> None:
    converted = convert_line(line)
    text = write(converted, tmp_path).read_text()
    for wanted in left:
        assert any(wanted in said for said in converted.draft.left)
    for wanted in implied:
        assert any(said.startswith(wanted) for said in converted.draft.implied)
    told = [*converted.draft.left, *converted.draft.implied]
    assert all(f"# - {said}" in text for said in told)
    written = text.partition("[engine]")[2]
    keys = {*VLLM.engine, *SGLANG.engine, *VLLM.switches, *SGLANG.switches}
    known = {"--host", "--port", "--api-key", "--served-model-name", "--lora-modules", "--lora-paths", "--model-path"}
    for use in find_command(line).uses:
        assert use.flag in keys | known or use.flag in written, use.flag


def test_what_needs_more_memory_than_that_is_left_to_the_machine() -> None:
    draft = convert_line("vllm serve tiny/base --lora-modules a=tiny/math --gpu-memory-utilization 0.95").draft
    assert "mem_fraction_static" not in draft.engine
    assert "0.95" in draft.notes["mem_fraction_static"]


def test_adapters_are_named_in_every_form_that_the_servers_take() -> None:
    forms = """'{"name": "a", "path": "tiny/math", "base_model_name": "x"}' b=org/adapter tiny/naive/tool"""
    draft = convert_line(f"vllm serve tiny/base --lora-modules {forms}").draft
    assert [(module.name, module.where.is_hub) for module in draft.modules] == [
        ("a", False),
        ("b", True),
        ("tool", False),
    ]


def test_names_that_clients_cannot_use_are_told() -> None:
    draft = convert_line("vllm serve org/base-8b --lora-modules org/math=tiny/math math=tiny/math").draft
    assert (draft.base_name, [module.name for module in draft.modules]) == ("base-8b", ["math", "math-2"])
    assert [text.split(":")[0] for text in draft.left] == [
        "the name 'org/base-8b'",
        "the name 'org/math'",
        "the name 'math'",
    ]
    assert tomllib.loads(draft.render(Path("x.toml"), MODELS_DIR))["prefill"]["hub"] == "org/base-8b"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("vllm serve tiny/base", "serves no adapter (--lora-modules)"),
        ("sglang serve --lora-paths a=b", "names no model: add --model-path"),
        ("vllm serve tiny/base --lora-modules a=tiny/math --port", "--port has no value"),
        ("vllm serve tiny/base --lora-modules '{broken'", "is no JSON object with name and path"),
    ],
)
def test_what_cannot_be_converted_is_said(line: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        convert_line(line)
    assert said in str(caught.value)


def test_options_of_sglang_are_those_of_the_pinned_version() -> None:
    named = {*SGLANG.engine, *SGLANG.switches, *SGLANG.implied, *SGLANG.missing, SGLANG.adapters, *SGLANG.model}
    assert named - {"--tp"} <= known_options().keys()  # which argparse takes for --tp-size

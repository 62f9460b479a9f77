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


@pytest.mark.parametrize(
    "line",
    [
        f"{SGLANG_LINE} --admin-api-key hush-hush --ssl-keyfile-password=hush-hush",
        f"SGLANG_SOME_TOKEN=hush-hush {SGLANG_LINE}",
        f"{VLLM_LINE} --hf-token hush-hush --lora-api-key hush-hush",
        f"VLLM_SOME_SECRET=hush-hush {VLLM_LINE}",
    ],
)
def test_secrets_are_in_no_file_and_named(line: str, tmp_path: Path) -> None:
    converted = convert_line(line)
    assert "hush-hush" not in write(converted, tmp_path).read_text()
    assert "hush-hush" not in repr(converted)
    assert any("..." in text for text in converted.draft.left)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ('--lora-modules \'{"name": 5, "path": "a"}\'', "no JSON object with name and path"),
        ('--lora-modules \'{"name": "a", "path": [1]}\'', "no JSON object with name and path"),
        ("--lora-modules '[null, 3]'", None),
        ("--lora-modules '{" + "[" * 5000 + "'", "no JSON object with name and path"),
        ("--lora-modules '" + "[" * 5000 + "'", None),
        ("--lora-modules a=~nobody-of-that-name/b", "home of a user who does not exist"),
        ("--lora-modules a=b --max-model-len " + "9" * 400, None),
        ("--lora-modules a=b --gpu-memory-utilization nan", None),
        ("--lora-modules a=b\x7f --mystery \x1b[31m", None),
    ],
)
def test_values_that_cannot_be_are_refused_or_left_out(words: str, reason: str | None, tmp_path: Path) -> None:
    line = f"vllm serve tiny/base --enable-lora {words}"
    if reason is not None:
        with pytest.raises(ConfigError, match=reason):
            convert_line(line)
        return
    tomllib.loads(write(convert_line(line), tmp_path).read_text())


DOUBLED = "\n".join(["a0: &a0 {args: [x]}", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))])
"""Each line means the one before it twice."""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 5000, "no command of a server"),
        ("a: &a [*a]", "no command of a server"),
        (
            "\n".join(["a0: &a0 {args: [x]}", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))]),
            "no command",
        ),
        ('command: "vllm serve \'x"', "is no command of a shell"),
    ],
)
def test_manifests_that_have_no_end_are_read_to_one(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        find_command(text)


def test_options_of_sglang_may_be_abbreviated_and_those_that_follow_from_adapters_are_no_loss(tmp_path: Path) -> None:
    converted = convert_line(
        "sglang serve --model-path tiny/base --lora-paths a=tiny/math --lora-target-modules all --dp 2"
    )
    assert load_deployment(write(converted, tmp_path)).engine.extra_args == ("--dp-size", "2")
    assert "--lora-target-modules: it follows from the adapters" in converted.draft.implied
    assert not [text for text in converted.draft.left if text.startswith("--")]


def test_a_model_that_a_missing_file_may_hold_is_asked_for() -> None:
    with pytest.raises(
        ConfigError, match=r"no model: add --model, which --config c\.yaml may hold: that file is not here"
    ):
        convert_line("vllm serve --config c.yaml --lora-modules a=b")

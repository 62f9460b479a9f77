"""The command of a server is found in scripts, compose files and manifests, with every option that it has."""

from pathlib import Path

import pytest

from prefillshare.drafts.command_line import CommandLine, Use, find_command
from prefillshare.drafts.config_file import read_config_file
from prefillshare.errors import ConfigError

SCRIPT = """\
#!/bin/bash
set -euo pipefail
MODEL=Qwen/Qwen3-8B   # the base
export ADAPTERS="/data/adapters"
echo "serving $UNRELATED"
CUDA_VISIBLE_DEVICES=0,1 nohup vllm serve "$MODEL" \\
    --enable-lora \\
    --lora-modules math=$ADAPTERS/math "tool=${ADAPTERS}/tool" \\
    --port ${PORT:-8000} > vllm.log 2>&1 &
wait
"""
COMPOSE = """\
services:
  web:
    image: nginx
    command: ["nginx", "-g", "daemon off;"]
  llm:
    image: vllm/vllm-openai:v0.9.0
    environment:
      VLLM_ALLOW_RUNTIME_LORA_UPDATING: "1"
    command: >
      --model Qwen/Qwen3-8B
      --enable-lora
      --lora-modules math=/adapters/math
"""
MANIFEST = """\
kind: Deployment
spec:
  template:
    spec:
      containers:
        - name: llm
          image: lmsysorg/sglang:latest
          command: ["python3", "-m", "sglang.launch_server"]
          args: [--model-path, Qwen/Qwen3-8B, --lora-paths, math=/adapters/math, --tp=2]
"""


def flags(command: CommandLine) -> dict[str, tuple[str, ...]]:
    return {use.flag: use.values for use in command.uses}


def test_a_shell_script_with_variables_and_redirections() -> None:
    command = find_command(SCRIPT)
    assert (command.server, command.positional) == ("vllm", ("Qwen/Qwen3-8B",))
    assert command.variables == {"CUDA_VISIBLE_DEVICES": "0,1"}
    assert flags(command) == {
        "--enable-lora": (),
        "--lora-modules": ("math=/data/adapters/math", "tool=/data/adapters/tool"),
        "--port": ("8000",),
    }


def test_a_compose_file_whose_image_is_the_server() -> None:
    command = find_command(COMPOSE)
    assert (command.server, command.variables) == ("vllm", {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"})
    assert flags(command)["--lora-modules"] == ("math=/adapters/math",)


def test_a_manifest_with_command_and_args() -> None:
    command = find_command(MANIFEST)
    assert command.server == "sglang"
    assert flags(command)["--tp"] == ("2",)


@pytest.mark.parametrize(
    ("line", "server"),
    [
        ("python -m vllm.entrypoints.openai.api_server --model X", "vllm"),
        ("docker run --gpus all -p 8000:8000 vllm/vllm-openai:latest --model X", "vllm"),
        ("uv run vllm serve X --model X", "vllm"),
        ("env A=1 /opt/venv/bin/sglang serve --model X", "sglang"),
        ("torchrun --nproc 2 -m sglang.launch_server --model X", "sglang"),
        ("bash -c 'true' && python3 -m sglang.launch_server --model X; echo done", "sglang"),
    ],
)
def test_servers_are_known_however_they_are_started(line: str, server: str) -> None:
    command = find_command(line)
    assert command.server == server
    assert Use(flag="--model", values=("X",)) in command.uses


def test_underscores_and_equals_signs_mean_the_same() -> None:
    assert flags(find_command("vllm serve X --max_model_len=2048")) == {"--max-model-len": ("2048",)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no command of a server in it"),
        ("llama-server -m x.gguf", "`vllm serve`, `sglang serve`"),
        ("vllm serve A\nvllm serve B", "there are 2 commands of servers"),
        ("vllm serve $MODEL", "the command uses $MODEL, which nothing in it sets"),
        ("vllm bench serve --model X", "there is no command of a server"),
        ("it's no shell", "there is no command of a server"),
    ],
)
def test_what_is_no_command_is_said(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_command(text)
    assert said in str(caught.value)


def test_a_key_in_a_variable_may_stay_unknown() -> None:
    assert flags(find_command("vllm serve X --api-key $API_KEY")) == {"--api-key": ("$API_KEY",)}


@pytest.mark.parametrize(
    "text",
    [
        # As vLLM's documentation has it.
        'docker run --gpus all --env "HF_TOKEN=$HF_TOKEN" -v $HOME/x:/x vllm/vllm-openai:latest --model a/b --port 1',
        "services:\n  other: {command: [run, $NOBODY]}\n  llm: {command: [vllm, serve, --model, a/b, --port, 1]}",
        "vllm serve --model a/b --port 1 --hf-token $HF_TOKEN",
    ],
)
def test_a_variable_outside_of_what_the_server_is_told_may_stay_unknown(text: str) -> None:
    found = flags(find_command(text))
    assert (found["--model"], found["--port"]) == (("a/b",), ("1",))


def test_a_file_of_options_stands_for_them_and_the_command_line_wins(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "model: a/b\nport: 1\nlora_modules:\n  - m=x\n  - {name: n, path: y}\nenable-lora: true\nenable-x: false\nn:\n"
    )
    command = read_config_file(find_command("vllm serve --config c.yaml --port 2"), tmp_path)
    assert flags(command) == {
        "--model": ("a/b",),
        "--lora-modules": ("m=x", '{"name": "n", "path": "y"}'),
        "--enable-lora": (),
        "--no-enable-x": (),
        "--port": ("2",),
    }
    command = read_config_file(find_command("vllm serve --config c.yaml own/model"), tmp_path)
    assert (command.positional, "--model" in flags(command)) == (("own/model",), False)


@pytest.mark.parametrize(("content", "reason"), [("- a", "holds no options"), ("a: [", "cannot be read as YAML")])
def test_a_file_that_holds_no_options_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(ConfigError, match=reason):
        read_config_file(find_command("vllm serve --config c.yaml"), tmp_path)


def test_a_file_that_is_not_here_is_named(tmp_path: Path) -> None:
    command = find_command("vllm serve a/b --config c.yaml")
    assert read_config_file(command, tmp_path) == command

"""The example agents, run as a user runs them."""

import contextlib
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import openai
import pytest
from transformers import AutoTokenizer

from tests.frontend.conftest import API_KEY, Deployment
from tests.support.engines import MODELS_DIR
from tests.support.proxies import PROXIES

EXAMPLES = Path(__file__).parents[2] / "examples"
MODULES = ["math", "code", "tool"] * 2
ANSWERS = [
    "#### 30",
    "    BONUS = 10\n    xs = [x for x in xs if x > BONUS]\n    xs = [x * 2 for x in xs]\n    return sorted(xs)",
    {"name": "send_final_report", "arguments": {"owner": "Kofi", "size": 30, "day": "Monday"}},
    "#### 63",
    "    LIMIT = 12\n    xs = [x for x in xs if x < LIMIT]\n    xs = [x * x for x in xs]\n    return sum(xs)",
    {"name": "copy_draft_table", "arguments": {"count": 63, "floor": 2, "day": "Friday"}},
]
CALL = re.compile(r"^(\w+) +(\d+) prompt tokens, +(\d+) cached$", re.MULTILINE)
SUM = re.compile(r"^all +(\d+) prompt tokens, +(\d+) cached, (\d+) prefilled$", re.MULTILINE)
SEPARATE = re.compile(r"^separate models, (.*), would have prefilled (\d+), ([\d.]+) times as many$", re.MULTILINE)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODELS_DIR / "tiny" / "base")


def run(script: str, deployment: Deployment, *, is_cold: bool = True) -> str:
    if is_cold:
        deployment.flush()
    command = [sys.executable, str(EXAMPLES / script), "--url", deployment.url, "--api-key", API_KEY]
    environment = {**os.environ, **PROXIES}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def answers_in(output: str) -> list[tuple[str, str]]:
    body = output[: CALL.search(output).start()]
    return re.findall(r"^\[(\w+)\] (.*?)\n\n", body, re.MULTILINE | re.DOTALL)


def test_langgraph_runs_the_tool_that_a_module_calls(deployment: Deployment) -> None:
    output = run("tools_langgraph.py", deployment)
    assert "] send_final_report {'owner': 'Kofi', 'size': 30, 'day': 'Monday'}\n" in output
    assert output.endswith("tool: the final report of Kofi goes out on Monday, 30 lines\n")
    planner, tool_user = map(int, re.findall(r"^\[(\d+) tokens cached\]", output, re.MULTILINE))
    assert planner <= 1
    assert tool_user > 200  # both were told the same tools, so the second prompt only goes on


def test_the_tool_of_an_mcp_server_is_called(deployment: Deployment) -> None:
    output = run("tools_mcp.py", deployment)
    assert "] send_final_report {'owner': 'Kofi', 'size': 30, 'day': 'Monday'}\n" in output
    assert output.endswith("tool: the final report of Kofi goes out on Monday, 30 lines\n")


def test_an_answer_is_an_object_of_a_class(deployment: Deployment) -> None:
    assert run("structured_openai.py", deployment) == "send_final_report: 30 lines of Kofi, on Monday\n"


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"{name.replace('_', ' ')}.",
            "parameters": {
                "type": "object",
                "properties": {field: {"type": kind} for field, kind in properties.items()},
                "required": list(properties),
            },
        },
    }
    for name, properties in {
        "cancel_remote_map": {"level": "integer"},
        "update_daily_table": {"owner": "string", "floor": "integer"},
        "copy_draft_table": {"day": "string", "count": "integer", "floor": "integer"},
    }.items()
]


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_call_arrives_as_such(deployment: Deployment, stream: bool) -> None:
    client = openai.OpenAI(base_url=f"{deployment.url}/v1", api_key=API_KEY, max_retries=0)
    asked = [{"role": "user", "content": "I need you to clone the purple table: count 63, floor 2, day Friday."}]
    wanted = {"model": "tool", "messages": asked, "tools": TOOLS, "temperature": 0, "max_tokens": 120}
    with contextlib.closing(client):
        if stream:
            pieces = [piece.choices[0] for piece in client.chat.completions.create(**wanted, stream=True)]
            calls = [call.function for piece in pieces for call in piece.delta.tool_calls or []]
            name, arguments = calls[0].name, "".join(call.arguments or "" for call in calls)
            reason = pieces[-1].finish_reason
        else:
            (answer,) = client.chat.completions.create(**wanted).choices
            (call,) = answer.message.tool_calls
            name, arguments, reason = call.function.name, call.function.arguments, answer.finish_reason
    assert (name, reason) == ("copy_draft_table", "tool_calls")
    assert json.loads(arguments) == {"count": 63, "floor": 2, "day": "Friday"}


@pytest.mark.parametrize("script", ["agents_frontend.py", "agents_openai.py", "agents_langgraph.py"])
def test_an_agent_loop_solves_its_task_and_counts_right(deployment: Deployment, tokenizer, script) -> None:
    output = run(script, deployment)
    answers = answers_in(output)
    assert [module for module, _ in answers] == MODULES
    for (module, said), wanted in zip(answers, ANSWERS, strict=True):
        assert (json.loads(said) if module == "tool" else said[-len(wanted) :]) == wanted

    calls = [(module, int(prompt), int(cached)) for module, prompt, cached in CALL.findall(output)]
    assert [module for module, *_ in calls] == MODULES
    prompts = [prompt for _, prompt, _ in calls]
    held = 1 if deployment.topology == "colocated" else 0  # x_n of a prompt is the module's own
    assert [cached for *_, cached in calls[1:]] == [prompt - held for prompt in prompts[:-1]]
    assert calls[0][2] <= 1

    total, cached, prefilled = map(int, SUM.search(output).groups())
    assert (total, cached) == (sum(prompts), sum(cached for *_, cached in calls))
    assert prefilled == total - cached
    # What a model that shares nothing has seen: its own last prompt, and its answer with the end mark.
    spoken = [len(tokenizer.encode(said)) + 1 for _, said in answers]
    separate = sum(prompts) - sum(prompt + said for prompt, said in zip(prompts[:3], spoken[:3], strict=True))
    assert SEPARATE.search(output).groups() == ("as cold as this run", str(separate), f"{separate / prefilled:.1f}")
    assert separate > 2 * prefilled


def test_a_warm_run_is_compared_with_warm_models(deployment: Deployment) -> None:
    run("agents_openai.py", deployment)
    output = run("agents_openai.py", deployment, is_cold=False)
    _, _, prefilled = map(int, SUM.search(output).groups())
    condition, separate, times = SEPARATE.search(output).groups()
    assert "that an earlier run left" in condition
    assert (int(separate), times) == (prefilled, "1.0")


def _savings(*calls: tuple[str, int, int, int]) -> str:
    savings = runpy.run_path(str(EXAMPLES / "savings.py"))["Savings"]()
    for call in calls:
        savings.add(*call)
    return savings.report().splitlines()[-1]


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        # a: 100, then 60 that it has not seen; b: all of its 130.
        (
            (("a", 100, 0, 10), ("b", 130, 99, 10), ("a", 170, 129, 10)),
            "as cold as this run, would have prefilled 290, 1.7",
        ),
        # The chat template's first tokens are always there.
        ((("a", 100, 3, 10), ("b", 130, 99, 10)), "as cold as this run, would have prefilled 224, 1.8"),
        (
            (("a", 100, 99, 10), ("b", 130, 129, 10)),
            "with the 128 tokens that an earlier run left, would have prefilled 2, 1.0",
        ),
        # An earlier run shared the first 80 tokens only; separate models had those left, too.
        (
            (("a", 100, 80, 10), ("b", 130, 99, 10)),
            "with the 80 tokens that an earlier run left, would have prefilled 70, 1.4",
        ),
        ((("a", 100, 100, 10),), "with the 100 tokens that an earlier run left, would have prefilled 0"),
    ],
)
def test_separate_models_are_as_warm_as_the_run(calls: tuple[tuple[str, int, int, int], ...], said: str) -> None:
    assert said in _savings(*calls)

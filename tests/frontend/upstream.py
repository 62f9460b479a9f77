"""SGLang's own frontend programs (`sglang.test.test_programs`) against a deployment.

    python -m tests.frontend.upstream URL [--api-key KEY]     # prints the table of docs/frontend.md

Programs run as SGLang wrote them, with its own backend. Some of them assert what only a language model of some size
knows; a tiny one fails these assertions, and that is told apart from a call that fails.
"""

import argparse
import contextlib
import io
import json
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from unittest import mock

import sglang as sgl
from sglang.test import test_programs as upstream

from prefillshare import frontend

Outcome = Literal["passes", "content", "error"]
NUM_QUESTIONS = 24
_EXECUTOR_ERROR = "Error in stream_executor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One of SGLang's programs and what can be expected of a model that knows nothing."""

    name: str
    """Function of `sglang.test.test_programs`."""
    is_judged: bool = False
    """Whether it asserts what the model says, and not only that and how it was said."""
    arguments: tuple[tuple[str, object], ...] = ()
    """What SGLang's own test of its server passes."""
    backend: Literal["plain", "runtime", "ours"] = "plain"
    """`runtime`: reads `.endpoint` of its backend, as `sgl.Runtime` has it."""
    note: str = ""
    """For the table."""


_UNJUDGED = (("check_answer", False),)
PROGRAMS = (
    Program(name="test_mt_bench"),
    Program(name="test_select", arguments=_UNJUDGED),
    Program(name="test_expert_answer", arguments=_UNJUDGED),
    Program(name="test_parallel_decoding"),
    Program(name="test_stream"),
    Program(name="test_regex"),
    Program(name="test_dtype_gen"),
    Program(name="test_gen_min_new_tokens", backend="runtime", is_judged=True, note="counts tokens of sampled text"),
    Program(name="test_hellaswag_select", note="over made-up questions: the data set is not in the repository"),
    Program(
        name="test_parallel_encoding",
        arguments=_UNJUDGED,
        backend="ours",
        note="with `frontend.Endpoint`; SGLang's own backend wants /concate_and_append_request, which its server lacks",
    ),
    Program(name="test_few_shot_qa", is_judged=True, note="capitals"),
    Program(name="test_decode_int", is_judged=True, note="hours in a day, days in a year"),
    Program(name="test_decode_json_regex", is_judged=True, note="a JSON string without line breaks"),
    Program(name="test_decode_json", is_judged=True, note="the same, sampled"),
    Program(name="test_tool_use", is_judged=True, note="writes and evaluates a product"),
    Program(name="test_react", is_judged=True, note="must finish within four thoughts"),
    Program(
        name="test_stream_logprobs",
        is_judged=True,
        note="needs a server started with --incremental-streaming-output, as SGLang's test does; this one is not",
    ),
)
NOT_APPLICABLE = {
    "test_image_qa": "no image model",
    "test_completion_speculative": "for OpenAI's completion API: counts that backend's tokens",
    "test_chat_completion_speculative": "for OpenAI's chat API: needs a backend without a text interface",
}


@dataclass(frozen=True, slots=True)
class Result:
    """How a program ended."""

    program: Program
    outcome: Outcome
    detail: str


def run(program: Program, url: str, module: str, api_key: str | None) -> Result:
    """Run one program to its end, as the default backend sees it."""
    function: Callable[..., object] = getattr(upstream, program.name)
    try:
        with _made_up_questions(), _backend(program, url, module, api_key), _said() as said:
            function(**dict(program.arguments))
    except (AssertionError, ValueError, KeyError, SyntaxError) as error:
        # ValueError: what should be a number or JSON is none. KeyError: a variable that the program never came to.
        detail = f"{type(error).__name__}: {str(error)[:80]}"
        return Result(program, "error" if said or not program.is_judged else "content", said[0] if said else detail)
    except Exception as error:
        return Result(program, "error", f"{type(error).__name__}: {error}")
    return Result(program, "error" if said else "passes", said[0] if said else "")


@contextlib.contextmanager
def _backend(program: Program, url: str, module: str, api_key: str | None) -> Iterator[None]:
    plain = sgl.RuntimeEndpoint(f"{url}/modules/{module}", api_key=api_key)
    if program.backend == "ours":
        sgl.set_default_backend(frontend.Endpoint(url, module=module, api_key=api_key))
    else:
        sgl.set_default_backend(types.SimpleNamespace(endpoint=plain) if program.backend == "runtime" else plain)
    try:
        yield
    finally:
        sgl.set_default_backend(None)


@contextlib.contextmanager
def _said() -> Iterator[list[str]]:
    """Calls that failed: SGLang warns of them in the thread that made them, and the program may not notice."""
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("always")
        try:
            yield said
        finally:
            texts = [str(warning.message) for warning in caught]
            said += [text.strip().splitlines()[-1] for text in texts if text.startswith(_EXECUTOR_ERROR)]


@contextlib.contextmanager
def _made_up_questions() -> Iterator[None]:
    """In the place of the download of `test_hellaswag_select`."""
    lines = [
        {
            "activity_label": "Counting",
            "ctx": f"Omar has {number} boxes and",
            "endings": [f"packs {number + other} more." for other in range(4)],
            "label": number % 4,
        }
        for number in range(NUM_QUESTIONS)
    ]
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "questions.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        with mock.patch.object(upstream, "download_and_cache_file", return_value=str(file)):
            yield


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--module", default="math")
    parser.add_argument("--api-key")
    options = parser.parse_args()
    print("| program | result | remark |\n|---|---|---|")
    words = {"passes": "passes", "content": "all calls answered; fails by content", "error": "FAILS"}
    for program in PROGRAMS:
        with contextlib.redirect_stdout(io.StringIO()):
            result = run(program, options.url, options.module, options.api_key)
        remark = "; ".join(part for part in (program.note, result.detail.replace("\n", " ")) if part)
        print(f"| `{program.name}` | {words[result.outcome]} | {remark} |", flush=True)
    for name, reason in NOT_APPLICABLE.items():
        print(f"| `{name}` | not applicable | {reason} |")


if __name__ == "__main__":
    main()

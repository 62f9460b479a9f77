"""One program, several decode modules: `prefillshare.frontend`."""

import asyncio
import json

import pytest
import sglang as sgl
from transformers import AutoTokenizer

from prefillshare import frontend
from prefillshare.errors import PrefillShareError
from tests.frontend.conftest import API_KEY, Deployment
from tests.support.engines import MODELS_DIR

CONTEXT = "Workspace market\nPeople:\n- Omar 3 boxes, beads 7 per box\n- Kofi 9 boxes, nuts 5 per box"
SUM = "Omar 3 boxes, beads 7 per box\nOmar's shelf grows by 3 boxes. What stands on it?"
FUNCTION = "For trim_prices(xs) take whatever halves cleanly, clone it, hand back the blend."
GREEDY = {"temperature": 0, "max_tokens": 48}
MODULES = ("math", "tool", "code")


@frontend.function
def two_modules(s, question):
    s += sgl.system(CONTEXT)
    s += sgl.user(question)
    with s.module("math"):
        s += sgl.assistant(sgl.gen("sum", **GREEDY))
    s += sgl.user(FUNCTION)
    s += sgl.assistant(frontend.gen("function", module="code", **GREEDY))


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODELS_DIR / "tiny" / "base")


def messages_of(question: str, answer: str) -> list[dict]:
    return [
        {"role": "system", "content": CONTEXT},
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": FUNCTION},
    ]


def test_a_program_says_what_the_openai_api_says(deployment: Deployment, endpoint) -> None:
    state = two_modules.run(SUM, backend=endpoint)
    messages = messages_of(SUM, state["sum"])
    for name, module, asked in (("sum", "math", messages[:2]), ("function", "code", messages)):
        reply = deployment.chat(module, asked, GREEDY["max_tokens"])
        assert state[name] == reply["choices"][0]["message"]["content"]
        used = frontend.usage(state, name)
        assert (used.module, used.prompt_tokens) == (module, reply["usage"]["prompt_tokens"])
        assert used.completion_tokens == reply["usage"]["completion_tokens"]
    assert state["sum"].endswith("#### 42")
    assert [message["role"] for message in state.messages()] == ["system", "user", "assistant", "user", "assistant"]


def test_the_second_module_hits_what_the_first_had_prefilled(endpoint) -> None:
    state = two_modules.run(SUM, backend=endpoint)
    first, second = frontend.usage(state, "sum"), frontend.usage(state, "function")
    assert second.cached_tokens - first.prompt_tokens in (-1, 0)
    assert second.prefilled_tokens == second.prompt_tokens - second.cached_tokens
    assert first.cached_tokens <= 1  # the beginning of every chat may be left from the start of the workers


def test_forks_of_all_modules_share_what_stands_before_them(endpoint, tokenizer) -> None:
    @frontend.function
    def program(s):
        s += sgl.system(CONTEXT)
        forks = s.fork(len(MODULES))
        for fork, module in zip(forks, MODULES, strict=True):
            with fork.module(module):
                fork += sgl.user(f"{module}: {SUM}")
                fork += sgl.assistant(sgl.gen("answer", **GREEDY))
        forks.join()
        used.extend(frontend.usage(fork, "answer") for fork in forks)

    used: list[frontend.Usage] = []
    state = program.run(backend=endpoint)
    assert len(state["answer"]) == len(MODULES)
    assert [usage.module for usage in used] == list(MODULES)
    context = len(tokenizer.encode(f"<|im_start|>system\n{CONTEXT}<|im_end|>\n"))
    for usage in used:
        assert context - 1 <= usage.cached_tokens < context + 10


def test_a_fork_inherits_the_module_of_its_block(endpoint) -> None:
    @frontend.function
    def program(s):
        s += sgl.user(SUM)
        with s.module("code"), s.copy() as other:
            other += sgl.assistant(sgl.gen("answer", **GREEDY))
            used.append(frontend.usage(other, "answer").module)
            with other.module("tool"):
                other += sgl.gen("inner", **GREEDY)
            other += sgl.gen("outer", **GREEDY) + frontend.gen("named", module="math", **GREEDY)
            used.extend(frontend.usage(other, name).module for name in ("inner", "outer", "named"))

    used: list[str] = []
    program.run(backend=endpoint)
    assert used == ["code", "tool", "code", "math"]


@pytest.mark.parametrize("generator_style", [False, True])
def test_batches(endpoint, generator_style) -> None:
    @frontend.function
    def ask(s, module):
        s += sgl.system(CONTEXT)
        s += sgl.user(SUM)
        with s.module(module):
            s += sgl.assistant(sgl.gen("answer", **GREEDY))

    alone = [ask.run(module=module, backend=endpoint)["answer"] for module in MODULES]
    asked = [{"module": module} for module in MODULES]
    states = list(ask.run_batch(asked, backend=endpoint, num_threads=3, generator_style=generator_style))
    assert [state["answer"] for state in states] == alone
    assert [frontend.usage(state, "answer").module for state in states] == list(MODULES)
    assert len(set(alone)) == len(MODULES)


@pytest.mark.usefixtures("left_open")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_streams_are_the_whole_in_pieces(endpoint) -> None:
    whole = two_modules.run(SUM, backend=endpoint)
    state = two_modules.run(SUM, backend=endpoint, stream=True)
    pieces = list(state.text_iter())
    assert "".join(pieces) == whole.text()
    assert len(pieces) > 2
    assert frontend.usage(state, "function").module == "code"

    async def read() -> list[str]:
        streamed = two_modules.run(SUM, backend=endpoint, stream=True)
        return [piece async for piece in streamed.text_async_iter("sum")]

    assert "".join(asyncio.run(read())) == whole["sum"]


def test_constraints_bind_the_module_that_has_the_turn(endpoint) -> None:
    schema = json.dumps({"enum": ["red", "blue"]})

    @frontend.function
    def program(s):
        s += sgl.user(SUM)
        with s.module("math"):
            s += sgl.gen("regex", regex=r"[a-c]{3}", **GREEDY) + "\n"
            s += sgl.gen("json", json_schema=schema, **GREEDY) + "\n"
            s += sgl.gen_int("int", temperature=0, max_tokens=4) + "\n"
        s += frontend.choose("choice", ["no (a.b)", "may|be", "two\nlines"], module="tool")

    state = program.run(backend=endpoint)
    assert len(state["regex"]) == 3
    assert set(state["regex"]) <= set("abc")
    assert json.loads(state["json"]) in ("red", "blue")
    int(state["int"])
    assert state["choice"] in ("no (a.b)", "may|be", "two\nlines")
    assert frontend.usage(state, "choice").module == "tool"


def test_other_programs_may_name_modules_in_their_calls(deployment: Deployment) -> None:
    @sgl.function
    def program(s):
        s += sgl.user(SUM)
        s += sgl.assistant("So: " + frontend.gen("a", module="code", **GREEDY) + sgl.gen("b", **GREEDY))

    state = program.run(backend=deployment.endpoint("math"))
    assert [frontend.usage(state, name).module for name in "ab"] == ["code", "math"]


@pytest.mark.usefixtures("left_open")
def test_without_a_thread_a_failed_call_ends_its_turn(deployment: Deployment) -> None:
    @sgl.function
    def program(s):
        s += SUM
        with pytest.raises(RuntimeError, match="regex cannot be used"):
            s += frontend.gen("bad", regex="a{3", module="tool", **GREEDY)
        s += sgl.gen("good", **GREEDY)

    state = program.run(backend=deployment.endpoint("math"), use_thread=False)
    assert frontend.usage(state, "good").module == "math"


@pytest.mark.usefixtures("left_open")
@pytest.mark.filterwarnings("ignore:Error in stream_executor")
def test_a_failed_call_is_told_where_its_value_is_wanted(endpoint) -> None:
    @frontend.function
    def program(s):
        with s.module("math"):
            s += "1" + sgl.gen("bad", json_schema="{", **GREEDY)
            told.append(s["bad"])

    told: list[str] = []
    with pytest.raises(frontend.ProgramError, match="json_schema cannot be used"):
        program.run(backend=endpoint)
    assert not told


@pytest.mark.parametrize("call", ["block", "call", "default"])
def test_unknown_modules_get_the_list(deployment: Deployment, call) -> None:
    @frontend.function
    def program(s):
        if call == "block":
            with s.module("maths"):
                pass
        s += frontend.gen("x", module="maths")

    expected = (
        r"module 'maths' does not exist; this deployment has: (math|tool|code), (math|tool|code), (math|tool|code)$"
    )
    with pytest.raises(frontend.UnknownModuleError, match=expected):
        program.run(backend=deployment.endpoint("maths" if call == "default" else None))


@pytest.mark.filterwarnings("ignore:Error in stream_executor")
def test_a_call_without_a_module_says_how_to_name_one(endpoint) -> None:
    @frontend.function
    def program(s):
        s += "x" + sgl.gen("y", **GREEDY)

    with pytest.raises(frontend.ProgramError, match="this call names no module: give the endpoint one"):
        program.run(backend=endpoint)["y"]


def test_wrong_addresses_and_keys_are_named(deployment: Deployment) -> None:
    with pytest.raises(PrefillShareError, match="needs an API key"):
        frontend.Endpoint(deployment.url, api_key="wrong")
    with pytest.raises(PrefillShareError, match="give the address of a PrefillShare deployment"):
        frontend.Endpoint(f"{deployment.url}/v1", api_key=API_KEY)
    with pytest.raises(PrefillShareError, match="nothing answers at"):
        frontend.Endpoint("http://127.0.0.1:9")


def test_a_program_with_modules_needs_our_backend(deployment: Deployment) -> None:
    @frontend.function
    def program(s):
        with s.module("math"):
            pass

    with pytest.raises(PrefillShareError, match="RuntimeEndpoint, which knows no modules"):
        program.run(backend=deployment.plain("math"))

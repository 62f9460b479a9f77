"""A prompt is trained as it is served: every form of a row, through real servers, over templates of several shapes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from prefillshare.training.data.chat import Chat, RowError
from prefillshare.training.data.mapping import as_tools
from prefillshare.training.data.tokenise import documents_of_chat
from prefillshare.training.layout import segment_bounds
from tests.support import chat_templates
from tests.support.engines import MODELS_DIR, Endpoint, shared_engine
from tests.support.marks import starts_engine
from tests.support.random_models import make_adapter, make_base, write_deployment
from tests.support.served_chats import BARE, CHATS, WEATHER, answer, call, calls_of, trained_prompts, user

OURS = (MODELS_DIR / "tiny" / "base" / "chat_template.jinja").read_text()
SHAPES = {
    "thinking": chat_templates.THINKING,
    "functions-first": chat_templates.FUNCTIONS_FIRST,
    "flat": chat_templates.FLAT,
    "ours": OURS,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose template is all shapes in one, so that one engine serves each by a word in the call."""
    # A path by which SGLang alone would take the model for another one, and ignore its chat template.
    base = make_base(tmp_path_factory.mktemp("internvl") / "base")
    branches = (f"{{%- if shape == '{name}' -%}}{text}{{%- endif -%}}" for name, text in SHAPES.items())
    (base / "chat_template.jinja").write_text("".join(branches))
    make_adapter(base.parent / "math", base, "math", seed=1)
    return base


@pytest.fixture(scope="module")
@starts_engine
def engine(base: Path) -> Iterator[Endpoint]:
    with shared_engine(write_deployment(base.parent / "deployment.toml", ("math",))) as endpoint:
        yield endpoint


@pytest.fixture
def tokenizer(base: Path) -> Any:
    return AutoTokenizer.from_pretrained(base)


def served_prompts(engine: Endpoint, shape: str, messages: Any, tools: Any) -> list[list[int]]:
    fields = {"model": "math", "max_tokens": 1, "return_prompt_token_ids": True}
    prompts = []
    for asked in calls_of(messages, tools):
        body = {**fields, **asked, "chat_template_kwargs": {"shape": shape}}
        reply = engine.http.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200, reply.text
        prompts.append(reply.json()["choices"][0]["prompt_token_ids"])
    return prompts


@pytest.mark.parametrize("shape", SHAPES)
def test_trained_prompts_are_the_served_ones(engine: Endpoint, tokenizer: Any, shape: str) -> None:
    tokenizer.chat_template = SHAPES[shape]
    for name, (messages, tools) in CHATS.items():
        trained = trained_prompts(messages, tools, tokenizer)
        assert trained == served_prompts(engine, shape, messages, tools), name


def spoken(chat: Chat, tokenizer: Any) -> list[str]:
    documents = documents_of_chat(chat.check(), tokenizer, 10_000)
    return [
        tokenizer.decode(document.tokens[first:end])
        for document in documents
        for first, end in segment_bounds(document.weights)
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_arguments_as_text_and_as_object_are_learned_alike(tokenizer: Any, shape: str) -> None:
    tokenizer.chat_template = SHAPES[shape]
    text, decoded = (
        spoken(Chat(messages=[user("go"), answer("", tool_calls=[call(arguments)])]), tokenizer)
        for arguments in ('{"to": "Ida", "n": 1.50}', {"to": "Ida", "n": 1.5})
    )
    assert text == decoded
    assert '\\"' not in text[0]


def test_an_answer_continues_its_prefix(tokenizer: Any) -> None:
    chat = Chat(messages=[user("How warm?"), answer("It is ", prefix=True), answer("seven.")])
    for shape in ("thinking", "ours"):
        tokenizer.chat_template = SHAPES[shape]
        assert spoken(chat, tokenizer) == ["seven.<|im_end|>"]
    tokenizer.chat_template = SHAPES["functions-first"]
    trimmed = Chat(messages=[user("How warm?"), answer(" It is ", prefix=True), answer("seven.")])
    with pytest.raises(RowError, match="does not keep the prefix ' It is ' as it is"):
        documents_of_chat(trimmed.check(), tokenizer, 10_000)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([user("hi"), answer("a", prefix=True), user("and?"), answer("b")], "turn 2 is a prefix"),
        ([{**user("hi"), "prefix": True}, answer("b")], "only assistant turns may have one"),
        ([user("hi"), answer("a", prefix="yes"), answer("b")], "true or false"),
        ([user("hi"), answer(None, prefix=True), answer("b")], "has content None"),
    ],
)
def test_prefixes_that_begin_nothing_are_refused(messages: Any, said: str) -> None:
    with pytest.raises(RowError, match=said):
        Chat(messages=messages).check()


@pytest.mark.parametrize(
    ("messages", "tools", "said"),
    [
        ([user("hi"), answer("", tool_calls=[call("{cut")])], [], "must be valid JSON"),
        ([user("hi"), answer("", tool_calls=[call("[1]")])], [], "must be a JSON object"),
        ([user("hi"), answer("", tool_calls="f()")], [], "the server refuses it"),
        ([user("hi"), answer("yes")], [{"type": "function"}], r"the server refuses it \(tools.0.function"),
        ([user("hi"), answer("yes")], [{"function": {"name": "f", "parameters": {"type": 3}}}], "schema"),
        (
            [user([{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "?"}]), answer("yes")],
            [],
            "text input",
        ),
    ],
)
def test_what_the_server_refuses_is_not_trained(tokenizer: Any, messages: Any, tools: Any, said: str) -> None:
    tokenizer.chat_template = OURS
    with pytest.raises(RowError, match=said) as caught:
        documents_of_chat(Chat(messages=messages, tools=tools).check(), tokenizer, 10_000)
    assert caught.value.reason == "malformed"


def test_bare_functions_are_wrapped_and_rows_stay_as_they_are() -> None:
    assert as_tools([BARE, WEATHER]) == [{"type": "function", "function": BARE}, WEATHER]
    assert as_tools([{"type": "function", **BARE}]) == [{"type": "function", "function": BARE}]


def test_schemas_of_a_row_are_not_changed(tokenizer: Any) -> None:
    tokenizer.chat_template = OURS
    documents_of_chat(Chat(messages=[user("hi"), answer("yes")], tools=[WEATHER]), tokenizer, 10_000)
    assert WEATHER["function"]["parameters"]["properties"]["city"]["type"] == "varchar"  # type: ignore[index]

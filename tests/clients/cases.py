"""What each client does with a deployment at an address; run by the environment `.clients`, and nothing of ours.

    .clients/bin/python tests/clients/cases.py http://127.0.0.1:30000

prints one line of JSON: by client, by what was tried, "yes" or what went wrong. A case that a client has no way to ask
for is not there.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel

Case = Callable[[str], bool]
QUESTION = "Omar 3 boxes, beads 7 per box\nOmar's shelf grows by 3 boxes. What stands on it?"
MESSAGES: list[Any] = [{"role": "user", "content": QUESTION}]
PARAMETERS = {
    "type": "object",
    "properties": {"zone": {"enum": ["utc", "cet"]}},
    "required": ["zone"],
    "additionalProperties": False,
}
FUNCTION = {"name": "now", "description": "the time", "parameters": PARAMETERS, "strict": True}
"""What is not strict, a model fills in as it likes; the tiny one does."""
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 64}
FORM: dict[str, Any] = {"model": "tool", "max_tokens": 1000}
"""For an answer in a form: the module that writes JSON, and room for the white space that the form allows."""
KEY = "none"


class Thing(BaseModel):
    """What an answer in a form looks like."""

    name: Literal["box", "pen"]


def raises(kind: type[Exception], ask: Callable[[], object], word: str = "nope") -> bool:
    """Whether `ask` fails with the client's own error, which says what was wrong."""
    try:
        ask()
    except kind as error:
        return word in str(error)
    return False


def openai_cases() -> dict[str, Case]:
    import openai

    def client(url: str) -> Any:
        return openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)

    def chat(url: str, **fields: Any) -> Any:
        return client(url).chat.completions.create(**{"model": "math", "messages": MESSAGES} | GREEDY | fields)

    def response(url: str, **fields: Any) -> Any:
        given = {"model": "math", "input": QUESTION, "temperature": 0, "max_output_tokens": 64}
        return client(url).responses.create(**given | fields)

    def stream(url: str) -> bool:
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chat(url, stream=True) if chunk.choices)
        return said == chat(url).choices[0].message.content

    def tools(url: str) -> bool:
        given = [{"type": "function", "function": FUNCTION}]
        (call,) = chat(url, model="tool", tools=given, tool_choice="required").choices[0].message.tool_calls
        return call.function.name == "now" and json.loads(call.function.arguments)["zone"] in ("utc", "cet")

    def structured(url: str) -> bool:
        parse = client(url).chat.completions.parse
        return parse(messages=MESSAGES, response_format=Thing, **GREEDY | FORM).choices[0].message.parsed is not None

    def responses(url: str) -> bool:
        first = response(url)
        more = response(url, input="And then?", previous_response_id=first.id)
        kept = client(url).responses.retrieve(more.id)
        client(url).responses.delete(first.id)
        return kept.output_text == more.output_text and first.usage.input_tokens > 0

    def streamed_responses(url: str) -> bool:
        told = list(response(url, stream=True))
        said = "".join(event.delta for event in told if event.type == "response.output_text.delta")
        return said == told[-1].response.output_text

    def errors(url: str) -> bool:
        return all(raises(openai.NotFoundError, lambda ask=ask: ask(url, model="nope")) for ask in (chat, response))

    return {
        "plain": lambda url: bool(chat(url).choices[0].message.content),
        "streaming": stream,
        "tools": tools,
        "structured output": structured,
        "n": lambda url: len(chat(url, n=3).choices) == 3,
        "conversation kept": responses,
        "streamed responses": streamed_responses,
        "errors": errors,
    }


def anthropic_cases() -> dict[str, Case]:
    import anthropic

    def client(url: str) -> Any:
        return anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0)

    def message(url: str, **fields: Any) -> Any:
        given: dict[str, Any] = {"model": "math", "messages": MESSAGES} | GREEDY | fields
        # Newer versions of the client have no word for it.
        return client(url).messages.create(**{k: v for k, v in given.items() if k != "temperature"}, **_temperature())

    def _temperature() -> dict[str, Any]:
        return {"extra_body": {"temperature": 0}}

    def stream(url: str) -> bool:
        given = {"model": "math", "messages": MESSAGES, "max_tokens": 64}
        with client(url).messages.stream(**given, **_temperature()) as told:
            return "".join(told.text_stream) == message(url).content[0].text

    def tools(url: str) -> bool:
        tool = {"name": "now", "description": "the time", "input_schema": PARAMETERS}
        (block,) = message(url, model="tool", tools=[tool], tool_choice={"type": "any"}).content
        return (block.type, block.name) == ("tool_use", "now")

    return {
        "plain": lambda url: bool(message(url).content[0].text),
        "streaming": stream,
        "tools": tools,
        "counting": lambda url: client(url).messages.count_tokens(model="math", messages=MESSAGES).input_tokens > 10,
        "errors": lambda url: raises(anthropic.NotFoundError, lambda: message(url, model="nope")),
    }


def agents_cases() -> dict[str, Case]:
    import agents
    import openai

    agents.set_tracing_disabled(disabled=True)

    @agents.function_tool
    def now(zone: Literal["utc", "cet"]) -> str:
        """Tell the time."""
        return f"noon in {zone}"

    def agent(url: str, model: str = "math", **fields: Any) -> Any:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
        limit, choice = fields.pop("max_tokens", 64), fields.pop("tool_choice", None)
        settings = agents.ModelSettings(temperature=0, max_tokens=limit, tool_choice=choice)
        api = agents.OpenAIResponsesModel(model=model, openai_client=client)
        return agents.Agent(name="a", model=api, model_settings=settings, **fields)

    def run(url: str, given: Any = QUESTION, **fields: Any) -> Any:
        return agents.Runner.run_sync(agent(url, **fields), given)

    def stream(url: str) -> bool:
        async def read() -> str:
            told = agents.Runner.run_streamed(agent(url), QUESTION)
            events = [event async for event in told.stream_events()]
            return str(told.final_output) if events else ""

        return asyncio.run(read()) == run(url).final_output

    def tools(url: str) -> bool:
        told = run(url, model="tool", tools=[now], tool_use_behavior="stop_on_first_tool", tool_choice="required")
        return str(told.final_output).startswith("noon in ")

    def goes_on(url: str) -> bool:
        first = run(url)
        again = run(url, [*first.to_input_list(), {"role": "user", "content": "And then?"}])
        more = agents.Runner.run_sync(agent(url), "And then?", previous_response_id=first.last_response_id)
        return bool(more.final_output == again.final_output)

    return {
        "plain": lambda url: bool(run(url).final_output),
        "streaming": stream,
        "tools": tools,
        "structured output": lambda url: isinstance(run(url, output_type=Thing, **FORM).final_output, Thing),
        "conversation kept": goes_on,
        "errors": lambda url: raises(openai.NotFoundError, lambda: run(url, model="nope")),
    }


def langgraph_cases() -> dict[str, Case]:
    import openai
    from langchain_core.messages import HumanMessage
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI
    from langgraph.graph import END, START, MessagesState, StateGraph
    from langgraph.prebuilt import ToolNode

    @tool
    def now(zone: Literal["utc", "cet"]) -> str:
        """Tell the time."""
        return f"noon in {zone}"

    def model(url: str, name: str = "math", **fields: Any) -> Any:
        given = {"model": name, "base_url": f"{url}/v1", "api_key": KEY, "max_retries": 0} | GREEDY | fields
        return ChatOpenAI(**given)

    def graph(asked: Any, *, has_tools: bool = False) -> Any:
        made = StateGraph(MessagesState)
        made.add_node("ask", lambda state: {"messages": [asked.invoke(state["messages"])]})
        made.add_node("use", ToolNode([now]))
        made.add_edge(START, "ask")
        made.add_edge("ask", "use" if has_tools else END)
        made.add_edge("use", END)
        return made.compile()

    def run(asked: Any, *, has_tools: bool = False) -> Any:
        return graph(asked, has_tools=has_tools).invoke({"messages": [("user", QUESTION)]})["messages"][-1].content

    def stream(url: str) -> bool:
        pieces = graph(model(url)).stream({"messages": [("user", QUESTION)]}, stream_mode="messages")
        return "".join(piece.content for piece, _ in pieces) == run(model(url))

    def samples(url: str) -> bool:
        return len(model(url, n=2).generate([[HumanMessage(QUESTION)]]).generations[0]) == 2

    return {
        "plain": lambda url: bool(run(model(url))),
        "streaming": stream,
        "tools": lambda url: run(
            model(url, "tool").bind_tools([now], tool_choice="required", strict=True), has_tools=True
        ).startswith("noon in "),
        "structured output": lambda url: isinstance(
            model(url, **FORM).with_structured_output(Thing).invoke(QUESTION), Thing
        ),
        "n": samples,
        "errors": lambda url: raises(openai.NotFoundError, lambda: run(model(url, "nope"))),
    }


def litellm_cases() -> dict[str, Case]:
    import litellm

    litellm.suppress_debug_info = True

    def chat(url: str, model: str = "math", **fields: Any) -> Any:
        given = {"model": model, "messages": MESSAGES, "api_base": f"{url}/v1", "api_key": KEY} | GREEDY | fields
        return litellm.completion(**given | {"model": f"openai/{given['model']}"})

    def stream(url: str) -> bool:
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chat(url, stream=True))
        return bool(said == chat(url).choices[0].message.content)

    def tools(url: str) -> bool:
        given = [{"type": "function", "function": FUNCTION}]
        (call,) = chat(url, "tool", tools=given, tool_choice="required").choices[0].message.tool_calls
        return json.loads(call.function.arguments)["zone"] in ("utc", "cet")

    def structured(url: str) -> bool:
        return bool(Thing.model_validate_json(chat(url, response_format=Thing, **FORM).choices[0].message.content))

    def messages(url: str) -> bool:
        given = {"messages": MESSAGES, "api_base": url, "api_key": KEY} | GREEDY
        return bool(litellm.completion(model="anthropic/math", **given).choices[0].message.content)

    return {
        "plain": lambda url: bool(chat(url).choices[0].message.content),
        "streaming": stream,
        "tools": tools,
        "structured output": structured,
        "n": lambda url: len(chat(url, n=2).choices) == 2,
        "Anthropic's interface": messages,
        "errors": lambda url: raises(litellm.NotFoundError, lambda: chat(url, "nope")),
    }


def instructor_cases() -> dict[str, Case]:
    import instructor
    import openai
    from instructor.core.exceptions import InstructorRetryException

    def client(url: str, mode: Any) -> Any:
        plain = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
        return instructor.from_openai(plain, mode=mode)

    def make(url: str, mode: Any, model: str = "tool") -> Any:
        given = {"messages": MESSAGES, "response_model": Thing, "max_retries": 0} | GREEDY | FORM
        return client(url, mode).chat.completions.create(**given | {"model": model})

    def stream(url: str) -> bool:
        given = {"messages": MESSAGES, "response_model": Thing} | GREEDY | FORM
        made = list(client(url, instructor.Mode.JSON_SCHEMA).chat.completions.create_partial(**given))
        return made[-1].name in ("box", "pen")

    def errors(url: str) -> bool:
        kinds: Any = (openai.NotFoundError, InstructorRetryException)
        return raises(kinds, lambda: make(url, instructor.Mode.JSON_SCHEMA, "nope"))

    return {
        "streaming": stream,
        "tools": lambda url: isinstance(make(url, instructor.Mode.TOOLS_STRICT), Thing),
        "structured output": lambda url: isinstance(make(url, instructor.Mode.JSON_SCHEMA), Thing),
        "errors": errors,
    }


CLIENTS = {
    "openai": openai_cases,
    "anthropic": anthropic_cases,
    "openai-agents": agents_cases,
    "langgraph": langgraph_cases,
    "litellm": litellm_cases,
    "instructor": instructor_cases,
}


def try_case(case: Case, url: str) -> str:
    """Return "yes", or what went wrong."""
    try:
        return "yes" if case(url) else "another answer than expected"
    except Exception as error:  # whatever a client's code raises is this case's result
        return f"{type(error).__name__}: {str(error)[:300]}"


if __name__ == "__main__":
    os.environ["OPENAI_AGENTS_DISABLE_TRACING"] = "1"
    cases = {client: make() for client, make in CLIENTS.items()}
    found = {name: {what: try_case(case, sys.argv[1]) for what, case in of.items()} for name, of in cases.items()}
    print(json.dumps(found))

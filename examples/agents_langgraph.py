"""Planner, coder and tool user as a LangGraph graph: one node per role, each with its own decode module.

python examples/agents_langgraph.py --url http://127.0.0.1:30000
"""

import argparse
from collections.abc import Callable
from typing import Annotated, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from market import CONTEXT, STEPS, final_number
from openai import DefaultAsyncHttpxClient, DefaultHttpxClient
from savings import Savings

NODES = {"math": "planner", "code": "coder", "tool": "tool_user"}


class Work(TypedDict):
    """What the nodes pass on."""

    messages: Annotated[list[AnyMessage], add_messages]  # one conversation for all nodes, so it is shared
    index: int  # the step that comes next
    number: str  # what the planner worked out last


def node(module: str, options: argparse.Namespace) -> Callable[[Work], dict]:
    """A node that lets `module` do the next step."""
    model = ChatOpenAI(
        model=module,
        base_url=f"{options.url}/v1",
        api_key=options.api_key,
        # No proxy in between, whatever the environment names.
        http_client=DefaultHttpxClient(trust_env=False),
        http_async_client=DefaultAsyncHttpxClient(trust_env=False),
        max_tokens=120,
        temperature=0,
    )

    def run(work: Work) -> dict:
        asked = HumanMessage(STEPS[work["index"]].prompt(work["number"]))  # role and task stand last
        answer = model.invoke([*work["messages"], asked])
        number = final_number(answer.text) if module == "math" else work["number"]
        return {"messages": [asked, answer], "index": work["index"] + 1, "number": number}

    return run


def next_node(work: Work) -> str:
    """The node of the next step."""
    return NODES[STEPS[work["index"]].module] if work["index"] < len(STEPS) else END


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:30000")
    parser.add_argument("--api-key", default="none")
    options = parser.parse_args()

    graph = StateGraph(Work)
    for module, name in NODES.items():
        graph.add_node(name, node(module, options))
        graph.add_conditional_edges(name, next_node)
    graph.add_conditional_edges(START, next_node)
    work = graph.compile().invoke({"messages": [SystemMessage(CONTEXT)], "index": 0, "number": ""})

    savings = Savings()
    answers = [message for message in work["messages"] if isinstance(message, AIMessage)]
    for step, answer in zip(STEPS, answers, strict=True):
        print(f"[{step.module}] {answer.text}\n")
        usage = answer.usage_metadata
        cached = usage.get("input_token_details", {}).get("cache_read")
        savings.add(step.module, usage["input_tokens"], cached, usage["output_tokens"])
    print(savings.report())


if __name__ == "__main__":
    main()
